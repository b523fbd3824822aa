"""Exponential moving average of the trained weights, on whatever shard of them this rank holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from medcodi.training.config import EmaConfig


class Ema:
    """Averages held in float32; ``shards`` are live views of the weights, so nothing is copied to be averaged."""

    def __init__(self, shards: Mapping[str, Tensor], options: EmaConfig) -> None:
        """Start from the weights as they are.

        Args:
            shards: Name -> tensor that the optimiser changes in place.
            options: Decay, or off (the average is then the weights themselves).
        """
        self.options = options
        self._names = list(shards)
        self._live = list(shards.values())
        self._average = [tensor.detach().clone().float() for tensor in self._live] if options.enabled else self._live

    @property
    def average(self) -> dict[str, Tensor]:
        """Name -> averaged tensor."""
        return dict(zip(self._names, self._average, strict=True))

    def decay(self, num_updates: int) -> float:
        """min(decay, (1 + n) / (10 + n)): short-sighted at first, so the random start is soon forgotten."""
        return min(self.options.decay, (1.0 + num_updates) / (10.0 + num_updates))

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Take the weights in: average <- d average + (1 - d) weights, with d of the ``num_updates``-th update (from 0)."""
        if self.options.enabled and self._average:
            live = [tensor.float() for tensor in self._live]  # float32 already: no copy
            torch._foreach_lerp_(self._average, live, 1.0 - self.decay(num_updates))

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Take back what :attr:`average` gave."""
        if self.options.enabled:
            for name, mine in zip(self._names, self._average, strict=True):
                mine.copy_(average[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the averages in the weights' place for a while; the weights come back bit for bit."""
        if not self.options.enabled:
            yield
            return
        kept = [tensor.detach().clone() for tensor in self._live]
        self._copy(self._average)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for live, value in zip(self._live, values, strict=True):
            live.copy_(value)
