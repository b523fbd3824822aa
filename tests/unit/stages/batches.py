"""Batches whose studies lack this and that, for every stage."""

from __future__ import annotations

import torch

from medcodi.data.loading import Batch
from medcodi.model import MedCoDi, tiny_model
from medcodi.randomness import StepRandomness
from medcodi.stages import Stage, build_stage

STAGES = ("autoencode", "align", "diffuse", "join")
SIZES = ("large", "small", "normal in size")


def stage_of(name: str, **options: object) -> Stage:
    """A stage around a fresh tiny model."""
    model = tiny_model(seed=0)
    model.trained_stages = STAGES
    with torch.no_grad():  # or what starts at zero would have no gradient to compare
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    return build_stage(name, model, options)


def uneven_batch(model: MedCoDi, num: int = 8, absent: dict[str, list[int]] | None = None) -> Batch:
    """Studies of random images; those in ``absent`` lack a modality."""
    size, generator = model.config.image_size, torch.Generator().manual_seed(0)
    contents: dict = {name: torch.rand(num, 1, size, size, generator=generator) for name in ("frontal", "lateral")}
    contents["report"] = [f"Study {row}. The heart is {SIZES[row % 3]}." for row in range(num)]
    present = {name: torch.ones(num, dtype=torch.bool) for name in contents}
    for name, rows in (absent or {}).items():
        present[name][rows] = False
        for row in rows:
            if name == "report":
                contents[name][row] = ""
            else:
                contents[name][row] = 0.0
    names = [f"study {row}" for row in range(num)]
    patients = [f"patient {row // 2}" for row in range(num)]
    return Batch(contents, present, torch.zeros(num, 14), names, patients, tuple(range(num)))


def drawn(batch: Batch, step: int = 0) -> StepRandomness:
    """The randomness of a batch."""
    return StepRandomness(seed=0, step=step, samples=batch.samples)
