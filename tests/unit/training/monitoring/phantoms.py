"""A few phantoms, drawn once, and a config for short runs on them."""

from __future__ import annotations

from typing import Any, ClassVar

from medcodi.config import from_dict
from medcodi.data.sources.phantom import PhantomDataset
from medcodi.study import Study
from medcodi.training.config import TrainConfig


class DrawnOnce(PhantomDataset):
    """Phantoms that are drawn once."""

    drawn: ClassVar[dict[int, Study]] = {}

    def __getitem__(self, index: int) -> Study:
        if index not in self.drawn:
            self.drawn[index] = super().__getitem__(index)
        return self.drawn[index]


DATASET = DrawnOnce(8, seed=0, image_size=32)
SAMPLES = tuple(range(8))


def settings(name: str, **changes: Any) -> TrainConfig:
    """A run of stage ``name``."""
    values = {
        "stage": {"name": name},
        "data": {"source": "phantom", "num_studies": 8, "image_size": 32},
        "model": "tiny.yaml",
        "out": "runs/unit",
        "steps": 4,
        "batch": {"global_size": 8},
    }
    return from_dict(TrainConfig, {**values, **changes})
