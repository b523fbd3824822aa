"""Batches whose studies lack some modalities, phantom batches, and stages around tiny models."""

from __future__ import annotations

import torch

from medcodi.data.loading import Batch, collate
from medcodi.data.sources.phantom import PhantomDataset
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


def phantom_batch(*samples: int) -> Batch:
    """Phantoms of 32 x 32 pixels."""
    dataset = PhantomDataset(8, seed=0, image_size=32)
    return collate([dataset[sample] for sample in samples], samples, 32)


def moved_by_training(stage: Stage, batch: Batch, steps: int = 3) -> set[str]:
    """Names of the model's parameters that some steps change."""
    before = {name: value.clone() for name, value in stage.model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        stage(batch, drawn(batch, step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return {name for name, value in stage.model.named_parameters() if not torch.equal(value, before[name])}


def assert_rows_are_independent(stage: Stage) -> None:
    """Laws 1 and 3: the mean over rows in another order, or in two halves, is the same mean."""

    def loss(*samples: int) -> float:
        batch = phantom_batch(*samples)
        with torch.no_grad():
            return float(stage(batch, drawn(batch)).loss)

    whole = loss(0, 1, 2, 3)
    assert abs(loss(3, 1, 0, 2) - whole) < 1e-5 * whole
    assert abs((loss(0, 1) + loss(2, 3)) / 2 - whole) < 1e-5 * whole
