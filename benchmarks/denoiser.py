"""The image denoiser beside ``diffusers``' of the same shape: a step of sampling at full size, and a step of training.

    python benchmarks/denoiser.py [--parts sampling,training] [--threads 2] [--repeats 7]
    python benchmarks/denoiser.py --parts training --threads 1 --repeats 5 [--size full --batch 2] [--compile]
    python benchmarks/denoiser.py --dry-run          tiny size, one turn, nothing written

On a CPU (a GPU: benchmarks/gpu.py). Both networks run in one process, in turns, with random weights.

- sampling: 859,520,964 parameters, environment off, batch 2 (one image and its null prompt), 4 x 32 x 32 latents, a context of 1 and
  of 77 tokens, in three rounds: ours in float32; in float32, channels last; in bfloat16, channels last. The peer's float32 default is
  in every round, bfloat16 by autocast, ours and the peer's, in one each; the last round has the peer at its best too: cast,
  channels last. 8 GB of memory, about 5 minutes. Ours keeps the keys and values of the prompts, as sampling does; that is part
  of the comparison.
- training: forward and backward of base 128 (142 M parameters; --size full: as above), batch 8, 77 tokens, inputs cached. Ours as a run
  executes it: float32, and bfloat16 by autocast on float32 weights. The peer in both layouts: float32, by autocast, and with weights and
  gradients cast to bfloat16 (which no run of ours does). --compile: both compiled too, minutes each. Beside both: the operations
  of the plain network, and the share of a matrix product's rate, measured in the same turns, that each reaches.

Writes benchmarks/results/denoiser.json and denoiser_training.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch
from measuring import fill, interleaved, machine, ratio, report
from measuring.networks import SIZES, context, denoiser_inputs, model_config, operations, our_denoiser, their_denoiser
from torch import Tensor, nn

from medcodi.model.execution import ExecutionConfig
from medcodi.networks.attention import Context
from medcodi.training.execution import attention_kernels, autocast, choose_attention, compile_blocks

GOALS = {"float32, 1 token": 0.97, "float32, 77 tokens": 1.0, "bfloat16 channels_last, 1 token": 0.55}
LENGTHS = (1, 77)
TRAINING_GOAL = 0.9  # our best over the peer's best
CPU = torch.device("cpu")


def one_round(
    label: str,
    ours: nn.Module,
    theirs: nn.Module,
    repeats: int,
    exact: dict[int, Tensor],
    *,
    size: str = "full",
    cast: nn.Module | None = None,
    autocast: tuple[str, Callable[[Tensor, Tensor, dict[int, Tensor]], Any]] | None = None,
) -> dict[str, Any]:
    """Times of both at both lengths, in turns, and how far ours is from its own float32.

    Args:
        label: What ours is.
        ours: Our network.
        theirs: The peer.
        repeats: Timed calls of each.
        exact: Length -> our output in float32; filled by the first round.
        size: Of both.
        cast: The peer at its best, with its weights in bfloat16.
        autocast: A call more, under bfloat16 autocast: its name, and what it does with latents, timesteps and contexts.
    """
    config = model_config(size)
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
        if cast is not None:
            half = z.bfloat16().contiguous(memory_format=torch.channels_last), t, tokens[length].bfloat16()
            calls[f"diffusers bfloat16 channels_last, {length}"] = lambda half=half: cast(*half)
    if autocast is not None:
        name, call = autocast

        def cast_at_every_call() -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return call(z, t, tokens)

        calls[name] = cast_at_every_call
    times = interleaved(calls, repeats)
    ratios = {length: ratio(times, f"ours, {length}", f"diffusers, {length}") for length in LENGTHS}
    return {"ours": label, "times": times, "ratio": ratios, "relative_error_to_our_float32": errors}


def sampling(repeats: int, size: str) -> dict[str, Any]:
    """The three rounds."""
    config = model_config(size)
    ours, theirs = fill(our_denoiser(config), seed=0), fill(their_denoiser(config), seed=1)
    exact: dict[int, Tensor] = {}
    rounds = [one_round("float32", ours, theirs, repeats, exact, size=size)]
    ExecutionConfig(channels_last=True).prepare(ours)
    name = "ours bfloat16 autocast channels_last, 1"
    autocast = name, lambda z, t, tokens: ours(z, t, Context(tokens[1]))
    rounds.append(one_round("float32 channels_last", ours, theirs, repeats, exact, size=size, autocast=autocast))
    ExecutionConfig(precision="bfloat16", channels_last=True).prepare(ours)
    autocast = "diffusers bfloat16 autocast, 1", lambda z, t, tokens: theirs(z, t, tokens[1])
    cast = fill(their_denoiser(config), seed=1, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    best = one_round("bfloat16 channels_last", ours, theirs, repeats, exact, size=size, cast=cast, autocast=autocast)
    best["ratio_to_the_peer_at_its_best"] = {
        length: ratio(best["times"], f"ours, {length}", f"diffusers bfloat16 channels_last, {length}")
        for length in LENGTHS
    }
    rounds.append(best)
    return {"batch": 2, "latent": [4, 32, 32], "rounds": rounds, "goals": GOALS}


# ---- training ----------------------------------------------------------------------------------------------------------
def trained(precision: str, size: str, batch: int, repeats: int, *, compiled: bool) -> dict[str, Any]:
    """Forward and backward of both at one precision, in turns, beside a matrix product."""
    config, dtype = model_config(size), torch.bfloat16 if precision == "bf16" else torch.float32
    length = 8 if size == "tiny" else 77
    z, t, tokens = denoiser_inputs(config, batch, length, "cpu")
    offsets = tokens.new_zeros(tokens.shape[:2])
    # One network for each way: to change the layout of one would take time within its turn.
    networks = {"ours": fill(our_denoiser(config), seed=0)}
    for name, kind in {"diffusers": torch.float32, "diffusers cast": dtype}.items():
        if name == "diffusers" or precision == "bf16":
            networks[name] = fill(their_denoiser(config), seed=1, dtype=kind)
            networks[f"{name}, channels_last"] = fill(their_denoiser(config), seed=1, dtype=kind)
    for name, network in networks.items():
        layout = torch.channels_last if "channels_last" in name else torch.contiguous_format
        network.train().requires_grad_(True).to(memory_format=layout)
    choose_attention(networks["ours"], precision, CPU)

    def step(name: str, network: Callable[..., Any]) -> None:
        cast = "cast" in name
        layout = torch.channels_last if "channels_last" in name else torch.contiguous_format
        map_, prompts = (part.to(dtype) if cast else part for part in (z.contiguous(memory_format=layout), tokens))
        with autocast(CPU, "fp32" if cast else precision):
            if name.startswith("ours"):
                out = network(map_, t, Context(prompts, offsets))
            else:
                out = network(map_, t, prompts).sample
            loss = out.float().square().mean()
        loss.backward()
        networks[name].zero_grad(set_to_none=True)

    def ours(name: str) -> None:
        with attention_kernels(precision, CPU):
            step(name, networks[name])

    calls: dict[str, Callable[[], Any]] = {"ours": lambda: ours("ours")}
    calls |= {name: lambda name=name: step(name, networks[name]) for name in list(networks)[1:]}
    if compiled:
        # The blocks of a second network of ours: those of the first stay as they are.
        networks["ours, compiled"] = fill(our_denoiser(config), seed=0).train().requires_grad_(True)
        choose_attention(networks["ours, compiled"], precision, CPU)
        compile_blocks(networks["ours, compiled"], CPU)
        calls["ours, compiled"] = lambda: ours("ours, compiled")
        for name in [name for name in networks if name.startswith("diffusers") and "channels_last" not in name]:
            call = torch.compile(networks[name])
            calls[f"{name}, compiled"] = lambda name=name, call=call: step(name, call)

    # The limit: one product of random numbers, of about the operations of a tenth of a pass.
    flops = operations(config, batch, length, backward=True)
    side = 64 if size == "tiny" else 2048
    left, right = (torch.randn(side, side, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    calls["matrix product"] = lambda: left @ right
    times = interleaved(calls, repeats)

    peak = 2 * side**3 / times["matrix product"]["cpu_seconds"]["min"]
    for name, row in times.items():
        row["share_of_peak"] = (
            round(flops / row["cpu_seconds"]["median"] / peak, 3) if name != "matrix product" else 1.0
        )
    medians = {name: row["seconds"]["median"] for name, row in times.items() if name != "matrix product"}
    best = {
        who: min((name for name in medians if name.startswith(who)), key=medians.__getitem__)
        for who in ("ours", "diffusers")
    }
    same = [name for name in medians if name.startswith("diffusers") and "cast" not in name]
    return {
        "precision": precision,
        "batch": batch,
        "tokens": length,
        "tflop": round(flops / 1e12, 4),
        "peak_tflops": round(peak / 1e12, 4),
        "times": times,
        "best": best,
        "ratio": ratio(times, best["ours"], best["diffusers"]),
        "ratio_with_float32_weights": ratio(times, best["ours"], min(same, key=medians.__getitem__)),
    }


def train_both(arguments: argparse.Namespace) -> None:
    """Both precisions; the table and the JSON."""
    size, batch = ("tiny", 2) if arguments.dry_run else (arguments.size, arguments.batch)
    repeats = 1 if arguments.dry_run else arguments.repeats
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with torch.inference_mode(False), torch.enable_grad():
        rounds = [trained(name, size, batch, repeats, compiled=arguments.compile) for name in ("fp32", "bf16")]
    command = f"python benchmarks/denoiser.py --parts training --size {size} --batch {batch} --threads {arguments.threads} --repeats {repeats}"
    results = {
        "what": "forward and backward of the image denoiser, inputs cached, no optimiser",
        "command": command + " --compile" * arguments.compile,
        "machine": {**machine(), "load_average": load},
        "size": size,
        "rounds": rounds,
        "goal": TRAINING_GOAL,
    }
    rows = [
        [f"{each['precision']}: {name}", row["seconds"]["median"], row["cpu_seconds"]["median"], row["share_of_peak"]]
        for each in rounds
        for name, row in each["times"].items()
    ]
    name = "denoiser_training" + ("_full" if size == "full" else "")
    report(
        name,
        results,
        ["step", "seconds", "CPU seconds", "share of the product's rate"],
        rows,
        write=not arguments.dry_run,
    )
    for each in rounds:
        print(
            f"{each['precision']}: {each['best']}, ratio {each['ratio']}; peer with float32 weights {each['ratio_with_float32_weights']}"
        )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="sampling,training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", choices=SIZES, default="mid", help="of training")
    parser.add_argument("--batch", type=int, default=8, help="of training")
    parser.add_argument("--compile", action="store_true", help="training: compiled too")
    parser.add_argument("--dry-run", action="store_true", help="tiny size, one turn, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(
        1 if arguments.dry_run else arguments.threads
    )  # two would wait for each other on a busy machine
    if "sampling" in arguments.parts.split(","):
        sample_both(arguments)
    if "training" in arguments.parts.split(","):
        train_both(arguments)


def sample_both(arguments: argparse.Namespace) -> None:
    """All rounds; the table and the JSON."""
    command = (
        f"python benchmarks/denoiser.py --parts sampling --threads {arguments.threads} --repeats {arguments.repeats}"
    )
    results = {"command": command, "machine": machine()}
    results |= sampling(*((1, "tiny") if arguments.dry_run else (arguments.repeats, "full")))
    rows = []
    for each in results["rounds"]:
        for length in LENGTHS:
            seconds = [each["times"][f"{who}, {length}"]["seconds"]["median"] for who in ("ours", "diffusers")]
            error = each["relative_error_to_our_float32"].get(length, {}).get("max")
            label = f"{each['ours']}, {length} token{'s' * (length > 1)}"
            shown = "" if error is None else f"{error:.1e}"
            rows.append([label, *(f"{s:.3f}" for s in seconds), each["ratio"][length], GOALS.get(label, ""), shown])
        for label in [name for name in each["times"] if "bfloat16" in name]:
            length = label.rpartition(", ")[2]
            seconds = [each["times"][name]["seconds"]["median"] for name in (label, f"diffusers, {length}")]
            rows.append([f"{label} token", *(f"{s:.3f}" for s in seconds), f"{seconds[0] / seconds[1]:.3f}", "", ""])
    header = ["ours", "seconds", "diffusers float32", "ratio", "goal", "error of the largest output"]
    report("denoiser", results, header, rows, write=not arguments.dry_run)


if __name__ == "__main__":
    main()
