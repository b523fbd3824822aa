"""Whether what is trained moves at all: how far a step carries the norms and biases of each part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medcodi.training.engine import Engine

PREFIX = "moved/"


class Motion:
    """Compares the vectors of each part (norms and biases: they do not decay, so only a gradient moves them) over one step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        stage = engine.stage
        names = {id(p): name for name, p in stage.named_parameters() if p.requires_grad and _is_vector(p)}
        watched = {
            part: [names[id(p)] for module in modules for p in module.parameters() if id(p) in names]
            for part, modules in stage.parts().items()
        }
        self._watched: Mapping[str, list[str]] = {part: chosen for part, chosen in watched.items() if chosen}
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def _values(self) -> dict[str, Tensor]:
        shards = self._engine.shards()
        return {
            part: torch.cat([shards[name].reshape(-1) for name in names]).float()
            for part, names in self._watched.items()
        }

    def remember(self) -> None:
        """Before the step."""
        self._before = self._values()

    @torch.no_grad()
    def moved(self) -> dict[str, Tensor]:
        """After it: ``"moved/<part>"`` -> ``[2]``, squares of the change and of the vectors, to be added up over ranks."""
        before, self._before = self._before, {}
        if not before:
            return {}
        after = self._values()
        return {
            f"{PREFIX}{part}": torch.stack([(after[part] - was).square().sum(), was.square().sum() + 1e-12])
            for part, was in before.items()
        }


def finished(means: Mapping[str, float]) -> dict[str, float]:
    """Means in which squares of motions have become motions: the length of the change over that of the vectors."""
    return {name: math.sqrt(value) if name.startswith(PREFIX) else value for name, value in means.items()}


def _is_vector(parameter: Any) -> bool:
    return len(getattr(parameter, "ds_shape", parameter.shape)) <= 1  # ZeRO-3 leaves an empty tensor in its place
