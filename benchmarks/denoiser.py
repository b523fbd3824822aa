"""One step of the full-size image denoiser (859,520,964 parameters, environment off) beside ``diffusers``' of the same shape.

    python benchmarks/denoiser.py [--threads 2] [--repeats 7]
    python benchmarks/denoiser.py --device cuda        batches 1, 16 and 64, doubled by guidance; with MFU

On a CPU: batch 2 (one image and its null prompt), 4 x 32 x 32 latents, a context of 1 and of 77 tokens. Both networks run in
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
from diffusers import UNet2DConditionModel
from measuring import fill, interleaved, machine, mfu, ratio, report
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medcodi.model.execution import ExecutionConfig
from medcodi.networks.attention import Context
from medcodi.networks.image_layers import ImageLayers
from medcodi.networks.unet import UNet, UNetConfig

GOALS = {"float32, 1 token": 0.97, "float32, 77 tokens": 1.0, "bfloat16 channels_last, 1 token": 0.55}
WIDTH, LENGTHS = 768, (1, 77)


def our_network() -> nn.Module:
    """On the meta device, without the layers through which targets hear each other."""
    with torch.device("meta"):
        config = UNetConfig()
        network = UNet(ImageLayers((4, 32, 32), config), config, context_dim=WIDTH, environment_dim=1280)
    for block in network.blocks():
        block.connector = None
    return network


def their_network() -> nn.Module:
    """On the meta device."""
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=WIDTH)


def inputs(batch: int, device: str) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Latents, timesteps, and contexts by length."""
    generator = torch.Generator().manual_seed(0)
    tokens = {length: torch.randn(batch, length, WIDTH, generator=generator).to(device) for length in LENGTHS}
    return (
        torch.randn(batch, 4, 32, 32, generator=generator).to(device),
        torch.full((batch,), 500, device=device),
        tokens,
    )


def context(tokens: Tensor) -> Context:
    """As generation makes it: logit offsets where there are several tokens, projections kept from step to step."""
    several = tokens.shape[1] > 1
    return Context(tokens, torch.zeros(tokens.shape[:2], device=tokens.device) if several else None).remembering()


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
    z, t, tokens = inputs(2, "cpu")
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
    ours, theirs = fill(our_network(), seed=0), fill(their_network(), seed=1)
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


def on_gpu(device: str, repeats: int) -> dict[str, Any]:
    """Steps at three batch sizes in bfloat16, compiled and not, beside the peer's."""
    rows = []
    for compiled in (False, True):
        ours = fill(our_network(), seed=0, device=device, dtype=torch.bfloat16)
        ExecutionConfig(channels_last=True, compile=compiled).prepare(ours)
        theirs = fill(their_network(), seed=1, device=device, dtype=torch.bfloat16)
        theirs = torch.compile(theirs) if compiled else theirs
        for images in (1, 16, 64):
            z, t, tokens = inputs(2 * images, device)
            z, tokens = z.bfloat16(), {length: value.bfloat16() for length, value in tokens.items()}
            for length in LENGTHS:
                heard = context(tokens[length])
                calls = {
                    "ours": lambda heard=heard, z=z, t=t, net=ours: net(z, t, heard),
                    "diffusers": lambda c=tokens[length], z=z, t=t, net=theirs: net(z, t, c),
                }
                times = interleaved(calls, repeats, device)
                with FlopCounterMode(display=False) as counter:
                    fill_free = our_network()
                    fill_free(z.to("meta"), t.to("meta"), context(tokens[length].to("meta")))
                flops = counter.get_total_flops()
                seconds = times["ours"]["seconds"]["median"]
                rows.append(
                    {
                        "images": images,
                        "tokens": length,
                        "compiled": compiled,
                        "times": times,
                        "ratio": ratio(times, "ours", "diffusers"),
                        "image_steps_per_second": round(images / seconds, 2),
                        "mfu": mfu(flops, seconds),
                    }
                )
        del ours, theirs
        torch.cuda.empty_cache()
    return {"latent": [4, 32, 32], "precision": "bfloat16", "rows": rows}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    command = f"python benchmarks/denoiser.py --device {arguments.device} --threads {arguments.threads} --repeats {arguments.repeats}"
    found = {"command": command, "machine": machine(arguments.device)}
    if arguments.device.startswith("cuda"):
        found |= on_gpu(arguments.device, arguments.repeats)
        header = ["images", "tokens", "compiled", "image steps/s", "MFU", "time / diffusers"]
        rows = [
            [r["images"], r["tokens"], r["compiled"], r["image_steps_per_second"], r["mfu"], r["ratio"]]
            for r in found["rows"]
        ]
        report("denoiser_gpu", found, header, rows)
        return
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
