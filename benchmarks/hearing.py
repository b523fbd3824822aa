"""What hearing costs: a denoising step of targets that hear each other's feature maps, beside one of the same targets that do not.

    python benchmarks/hearing.py [--turns 7]            # the demo model, batches of 16, bfloat16 channels_last, one thread
    python benchmarks/hearing.py --full [--turns 5]     # medcodi-m-features, random weights, both films, batches of 1 (14 GB)

Both take turns in one process. Writes benchmarks/results/hearing.json or hearing_full.json.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from itertools import chain

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from accelerate import init_empty_weights

from benchmarks.measuring import fill, interleaved, machine, peak_mib, ratio, report
from medcodi.config import load as load_config
from medcodi.generation.pipeline import load
from medcodi.model import MedCoDi, ModelConfig
from medcodi.model.execution import ExecutionConfig
from medcodi.model.fresh import absent_tokenizers
from medcodi.networks.attention import Context

FILMS, ALL = ("frontal", "lateral"), ("frontal", "lateral", "report")


def full_size() -> MedCoDi:
    """The full-size model, of which only the denoisers and connectors of both films have weights."""
    config = load_config(ModelConfig, "configs/models/medcodi-m-features.yaml")
    with init_empty_weights(include_buffers=False):
        model = MedCoDi(config, absent_tokenizers(config))
    for name in FILMS:
        for part in (model.denoisers[name], model.environment[name]):
            fill(part, dtype=torch.bfloat16)
    return model


def parameters(model: MedCoDi, targets: tuple[str, ...], part: str) -> int:
    """Parameters of the targets' denoisers or connectors."""
    return sum(p.numel() for p in chain(*(getattr(model, part)[name].parameters() for name in targets)))


def main() -> None:
    """Time every set of targets, and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the full-size model instead of the demo")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    model = full_size() if options.full else load(None, "cpu")
    batch = 1 if options.full else 16
    execution = ExecutionConfig(precision="bfloat16", channels_last=True)
    generator = torch.Generator().manual_seed(0)
    results, rows = {}, []
    for targets in (FILMS,) if options.full else (FILMS, ALL):
        latents = {name: torch.randn(batch, *model.latent_shape(name), generator=generator) for name in targets}
        # As many tokens as a report has at most.
        tokens = torch.randn(batch, 77, model.config.prompt_encoders.embed_dim, generator=generator)
        context, t = Context(tokens, torch.zeros(batch, 77)), torch.full((batch,), 500)
        names = [f"{part}_{name}" for part in ("denoiser", "environment") for name in targets]
        with execution.running(model, names), torch.no_grad():
            times = interleaved(
                {
                    "hearing": partial(model.denoise, latents, t, context),
                    "deaf": partial(model.denoise, latents, t, context, heard={}),
                },
                options.turns,
            )
        share = parameters(model, targets, "environment") / parameters(model, targets, "denoisers")
        cost = {
            "seconds": ratio(times, "hearing", "deaf"),
            "cpu_seconds": round(times["hearing"]["cpu_seconds"]["median"] / times["deaf"]["cpu_seconds"]["median"], 3),
            "parameters": round(share, 4),
        }
        results["+".join(targets)] = {"batch": batch, "times": times, "hearing_over_deaf": cost}
        rows.append(["+".join(targets), batch, *(times[name]["seconds"]["median"] for name in times), *cost.values()])
    header = ["targets", "batch", "hearing, s", "deaf, s", "time", "processor time", "further parameters"]
    name = "hearing_full" if options.full else "hearing"
    report(name, {"machine": machine(), "peak_mib": round(peak_mib()), "results": results}, header, rows)


if __name__ == "__main__":
    main()
