"""Exponential moving average of the trained weights, on whatever shard of them this rank holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medcodi.training.config import EmaConfig

if TYPE_CHECKING:
    from medcodi.training.engine import Engine


class Ema:
    """float32 averages of live views of the weights, so that nothing is copied to be averaged."""

    def __init__(self, shards: Mapping[str, Tensor], config: EmaConfig) -> None:
        """Start from the current weights.

        Args:
            shards: Name -> tensor that the optimiser changes in place.
            config: Decay, or off: the average is then the weights themselves.
        """
        self.config = config
        self._names = list(shards)
        self._live = list(shards.values())
        self._average = [tensor.detach().clone().float() for tensor in self._live] if config.enabled else self._live

    @property
    def average(self) -> dict[str, Tensor]:
        """Name -> averaged tensor."""
        return dict(zip(self._names, self._average, strict=True))

    def decay(self, num_updates: int) -> float:
        """min(decay, (1 + n) / (10 + n)): low at first, so that the random start is soon forgotten."""
        return min(self.config.decay, (1.0 + num_updates) / (10.0 + num_updates))

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Average <- d average + (1 - d) weights, with d of update ``num_updates`` (from 0)."""
        if self.config.enabled and self._average:
            live = [tensor.float() for tensor in self._live]  # float32 already: no copy
            torch._foreach_lerp_(self._average, live, 1.0 - self.decay(num_updates))

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Restore what :attr:`average` returned."""
        if self.config.enabled:
            for name, own in zip(self._names, self._average, strict=True):
                own.copy_(average[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Context in which the weights are the averages; afterwards they are restored bit for bit."""
        if not self.config.enabled:
            yield
            return
        weights = [tensor.detach().clone() for tensor in self._live]
        self._copy(self._average)
        try:
            yield
        finally:
            self._copy(weights)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for live, value in zip(self._live, values, strict=True):
            live.copy_(value)


@contextmanager
def evaluating(engine: Engine, ema: Ema) -> Iterator[None]:
    """Context in which the stage evaluates: averaged weights, evaluation mode, no gradients, the run's precision."""
    engine.stage.eval()
    try:
        with torch.no_grad(), ema.swapped_in(), engine.evaluation():
            yield
    finally:
        engine.stage.train()
