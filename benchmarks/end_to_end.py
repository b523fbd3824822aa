"""Prompt to image, end to end: ours at 20 steps beside 50 steps of DDIM through a ``diffusers`` pipeline of the same size.

    python benchmarks/end_to_end.py [--size mid] [--threads 2] [--repeats 3]
    python benchmarks/end_to_end.py --size full --repeats 1      8 GB, about 20 minutes on two cores

On a CPU (a GPU: benchmarks/gpu.py). Timed: text encoder, denoising with guidance 7.5 (both halves in one batch, on both sides),
image decoder; not timed: loading, and the peer's tokenizer. The peer is ``StableDiffusionPipeline`` without a safety checker, from components of the same
configuration; all weights are random. Ours is timed as DDIM at 50 steps too, so that what comes from fewer steps and what comes
from faster steps can be told apart. ``mid``: 256 x 256, denoisers of base 128, 512-d context; ``full``: MedCoDi-M.
Writes benchmarks/results/end_to_end_{size}.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from measuring import interleaved, machine, ratio, report
from measuring.networks import FILM_COMPONENTS, SIZES, model_config, our_films, our_model, their_films, their_pipeline

from medcodi.model import ModelConfig
from medcodi.model.execution import ExecutionConfig

GOAL = 2.2


def on_cpu(config: ModelConfig, repeats: int, steps: int) -> dict[str, Any]:
    """Ours in float32 and in bfloat16, and the pipeline, one image each, in turns."""
    plain, fast = (our_model(config, FILM_COMPONENTS, "cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    pipeline = their_pipeline(config, "cpu", torch.float32)
    with ExitStack() as stack:
        stack.enter_context(ExecutionConfig(channels_last=True).running(fast, FILM_COMPONENTS))
        calls: dict[str, Callable[[], Any]] = {
            "diffusers, DDIM 50": lambda: their_films(pipeline, config, 1, 50),
            "ours, DDIM 50, float32": lambda: our_films(plain, 1, "ddim", 50),
            f"ours, DPM-Solver++ {steps}, float32": lambda: our_films(plain, 1, "dpm++", steps),
            f"ours, DPM-Solver++ {steps}, bfloat16": lambda: our_films(fast, 1, "dpm++", steps),
        }
        times = interleaved(calls, repeats)
    peer = "diffusers, DDIM 50"
    faster = {name: round(1 / ratio(times, name, peer), 2) for name in times}
    return {"batch": 1, "times": times, "times_faster": faster, "goal": GOAL}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = model_config(arguments.size)
    command = (
        f"python benchmarks/end_to_end.py --size {arguments.size} --threads {arguments.threads}"
        f" --repeats {arguments.repeats} --steps {arguments.steps}"
    )
    found: dict[str, Any] = {"command": command, "machine": machine(), "size": arguments.size}
    found |= on_cpu(config, arguments.repeats, arguments.steps)
    rows = [
        [
            name,
            f"{found['times'][name]['seconds']['median']:.1f}",
            found["times_faster"][name],
            GOAL if "DPM" in name else "",
        ]
        for name in found["times"]
    ]
    report(f"end_to_end_{arguments.size}", found, ["prompt to image", "seconds", "times faster", "goal"], rows)


if __name__ == "__main__":
    main()
