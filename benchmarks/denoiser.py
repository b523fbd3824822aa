"""One step of the full-size image denoiser (859,520,964 parameters, environment off) beside ``diffusers``' of the same shape.

    python benchmarks/denoiser.py [--threads 2] [--repeats 7]

On a CPU (a GPU: benchmarks/gpu.py): batch 2 (one image and its null prompt), 4 x 32 x 32 latents, a context of 1 and of 77 tokens. Both networks run in
one process, in turns, with random weights, in three rounds: ours in float32; ours in float32, channels last; ours in
bfloat16, channels last. The peer's float32 default is in every round; bfloat16 by autocast, ours and the peer's, in one each.
8 GB of memory, about 5 minutes. Ours keeps the keys and values of the prompts, as sampling does; that is part of the comparison.
Writes benchmarks/results/denoiser.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measuring import fill, interleaved, machine, ratio, report
from measuring.networks import context, denoiser_inputs, model_config, our_denoiser, their_denoiser
from torch import Tensor, nn

from medcodi.model.execution import ExecutionConfig
from medcodi.networks.attention import Context

GOALS = {"float32, 1 token": 0.97, "float32, 77 tokens": 1.0, "bfloat16 channels_last, 1 token": 0.55}
LENGTHS = (1, 77)


def one_round(
    label: str,
    ours: nn.Module,
    theirs: nn.Module,
    repeats: int,
    exact: dict[int, Tensor],
    *,
    autocast: tuple[str, Callable[[Tensor, Tensor, dict[int, Tensor]], Any]] | None = None,
) -> dict[str, Any]:
    """Times of both at both lengths, in turns, and how far ours is from its own float32.

    Args:
        label: What ours is.
        ours: Our network.
        theirs: The peer.
        repeats: Timed calls of each.
        exact: Length -> our output in float32; filled by the first round.
        autocast: A call more, under bfloat16 autocast: its name, and what it does with latents, timesteps and contexts.
    """
    config = model_config("full")
    z, t, _ = denoiser_inputs(config, 2, 1, "cpu")
    tokens = {length: denoiser_inputs(config, 2, length, "cpu")[2] for length in LENGTHS}
    calls: dict[str, Callable[[], Any]] = {}
    errors = {}
    for length in LENGTHS:
        heard = context(tokens[length])
        out = ours(z, t, heard)
        if length in exact:
            errors[length] = {
                "max": float((out - exact[length]).abs().max() / exact[length].abs().max()),
                "rms": float((out - exact[length]).norm() / exact[length].norm()),
            }
        else:
            exact[length] = out
        calls[f"ours, {length}"] = lambda heard=heard: ours(z, t, heard)
        calls[f"diffusers, {length}"] = lambda length=length: theirs(z, t, tokens[length])
    if autocast is not None:
        name, call = autocast

        def cast_at_every_call() -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return call(z, t, tokens)

        calls[name] = cast_at_every_call
    times = interleaved(calls, repeats)
    ratios = {length: ratio(times, f"ours, {length}", f"diffusers, {length}") for length in LENGTHS}
    return {"ours": label, "times": times, "ratio": ratios, "relative_error_to_our_float32": errors}


def on_cpu(repeats: int) -> dict[str, Any]:
    """The three rounds."""
    config = model_config("full")
    ours, theirs = fill(our_denoiser(config), seed=0), fill(their_denoiser(config), seed=1)
    exact: dict[int, Tensor] = {}
    rounds = [one_round("float32", ours, theirs, repeats, exact)]
    ExecutionConfig(channels_last=True).prepare(ours)
    name = "ours bfloat16 autocast channels_last, 1"
    autocast = name, lambda z, t, tokens: ours(z, t, Context(tokens[1]))
    rounds.append(one_round("float32 channels_last", ours, theirs, repeats, exact, autocast=autocast))
    ExecutionConfig(precision="bfloat16", channels_last=True).prepare(ours)
    autocast = "diffusers bfloat16 autocast, 1", lambda z, t, tokens: theirs(z, t, tokens[1])
    rounds.append(one_round("bfloat16 channels_last", ours, theirs, repeats, exact, autocast=autocast))
    return {"batch": 2, "latent": [4, 32, 32], "rounds": rounds, "goals": GOALS}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    command = f"python benchmarks/denoiser.py --threads {arguments.threads} --repeats {arguments.repeats}"
    found = {"command": command, "machine": machine()}
    found |= on_cpu(arguments.repeats)
    rows = []
    for one in found["rounds"]:
        for length in LENGTHS:
            seconds = [one["times"][f"{who}, {length}"]["seconds"]["median"] for who in ("ours", "diffusers")]
            error = one["relative_error_to_our_float32"].get(length, {}).get("max")
            label = f"{one['ours']}, {length} token{'s' * (length > 1)}"
            shown = "" if error is None else f"{error:.1e}"
            rows.append([label, *(f"{s:.2f}" for s in seconds), one["ratio"][length], GOALS.get(label, ""), shown])
        for label in [name for name in one["times"] if "autocast" in name]:
            seconds = [one["times"][name]["seconds"]["median"] for name in (label, "diffusers, 1")]
            rows.append([f"{label} token", *(f"{s:.2f}" for s in seconds), f"{seconds[0] / seconds[1]:.3f}", "", ""])
    header = ["ours", "seconds", "diffusers float32", "ratio", "goal", "error of the largest output"]
    report("denoiser", found, header, rows)


if __name__ == "__main__":
    main()
