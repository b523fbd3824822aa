"""A real stage small enough to train in milliseconds: one linear denoiser a modality, dropout, a frozen part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medcodi.config import config, from_dict
from medcodi.data.loading import Batch
from medcodi.randomness import StepRandomness
from medcodi.stages.stage import Stage, StepOutput
from medcodi.stages.step import Accumulation
from medcodi.training.config import TrainConfig

SIZE = 8


@config
class ToyConfig:
    """Config of the toy."""

    dropout: float = 0.0
    width: int = 13


class ToyModel(nn.Module):
    """What the toy stage trains, and what it leaves alone."""

    trained_stages = ()

    def __init__(self, options: ToyConfig) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen, width = nn.Linear(SIZE * SIZE, 16), options.width
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(16, width), nn.LayerNorm(width), nn.Linear(width, 5))
                for name in ("frontal", "lateral")
            }
        )
        self.dropout = nn.Dropout(options.dropout)
        self.register_buffer("scale", torch.tensor(0.5))


class ToyStage(Stage):
    """Predicts noise from pixels; a modality that no row holds leaves its part without a gradient."""

    name = "toy"
    Config = ToyConfig
    config: ToyConfig
    model: Any

    def __init__(self, dropout: float = 0.0, width: int = 13) -> None:
        options: Any = ToyConfig(dropout=dropout, width=width)
        model: Any = ToyModel(options)
        super().__init__(model, options)

    def trained_parts(self) -> list[nn.Module]:
        return [*self.model.heads.values(), self.model.dropout]

    def parts(self) -> dict[str, list[nn.Module]]:
        return {name: [head] for name, head in self.model.heads.items()}

    def forward(self, batch: Batch, randomness: StepRandomness, accumulation: Accumulation | None = None) -> StepOutput:
        loss, logs = torch.zeros(()), {}
        for name, head in self.model.heads.items():
            present = batch.present[name]
            if not present.any():
                continue
            values = batch.contents[name]
            assert isinstance(values, Tensor)
            target = randomness.normal(name, (5,))
            hidden = self.model.frozen(values.flatten(1)) * self.model.scale
            error = (head(self.model.dropout(hidden)) - target).square().mean(dim=1)
            logs[name] = (error * present).mean().detach()
            loss = loss + (error * present).mean()
        return StepOutput(loss, logs)


def toy_batch(samples: tuple[int, ...], absent: str | None = None) -> Batch:
    """A batch whose pixels are functions of the samples."""
    images = torch.stack([torch.linspace(0, 1, SIZE * SIZE).roll(sample).reshape(1, SIZE, SIZE) for sample in samples])
    present = torch.ones(len(samples), dtype=torch.bool)
    return Batch(
        contents={"frontal": images, "lateral": images.flip(-1)},
        present={name: present & (name != absent) for name in ("frontal", "lateral")},
        labels=torch.zeros(len(samples), 14),
        study_ids=[f"study{sample}" for sample in samples],
        patient_ids=[f"patient{sample}" for sample in samples],
        samples=samples,
    )


def toy_config(**changes: Any) -> TrainConfig:
    """A config for the toy stage."""
    values = {
        "stage": {"name": "toy"},
        "data": {"source": "phantom", "num_studies": 16, "image_size": 32},
        "model": "toy.yaml",
        "out": "runs/toy",
        "steps": 8,
        "batch": {"global_size": 4},
        "optimizer": {"lr": 0.01, "warmup_steps": 2, "grad_clip": 0.5},
    }
    return from_dict(TrainConfig, {**values, **changes})


def step_samples(step: int, size: int = 4) -> tuple[int, ...]:
    """Global batch of a step."""
    return tuple(range(step * size, (step + 1) * size))
