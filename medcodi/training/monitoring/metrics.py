"""Means of what the steps tell, over steps, micro-batches and ranks: exact, and without waiting for the device in between."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medcodi.distributed import Ranks

ONCE_A_RANK = ("grad_norm", "clipped")  # counted once a step on each rank, not for each of its micro-batches
_ROWS = "rows:"  # begins, in a state, the name of what counts rows: they weigh the same on any number of ranks


class Means:
    """Running means of named figures; NaN counts as absent.

    Scalars weigh the same each. A ``[2]`` is a weighted sum and its weights (:func:`medcodi.stages.step.cell_sums`): the mean
    is that over all rows of all ranks. Device tensors are kept as they come and read all at once, so that logging never
    makes the device wait in between.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[list[str], Tensor]] = []
        self._sums: dict[str, list[float]] = {}  # name -> [sum, count]

    def add(self, logs: Mapping[str, Tensor | float]) -> None:
        """Take figures in."""
        tensors = {name: value.detach() for name, value in logs.items() if isinstance(value, Tensor)}
        if tensors:
            device = next(iter(tensors.values())).device
            names = [f"{_ROWS}{name}" if value.ndim else name for name, value in tensors.items()]
            self._pending.append((names, torch.cat([value.reshape(-1).to(device) for value in tensors.values()])))
        for name, value in logs.items():
            if not isinstance(value, Tensor):
                self._count(name, value, 1.0)

    def _count(self, name: str, value: float, weight: float) -> None:
        if not math.isnan(value) and weight:
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] += value
            entry[1] += weight

    def state(self) -> dict[str, list[float]]:
        """Sums and counts so far, ready for JSON."""
        if self._pending:
            device = self._pending[0][1].device
            values = iter(torch.cat([flat.to(device) for _, flat in self._pending]).tolist())  # one look at the device
            for names, _ in self._pending:
                for name in names:
                    self._count(name, next(values), next(values) if name.startswith(_ROWS) else 1.0)
            self._pending.clear()
        return self._sums

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        """Take back what :meth:`state` gave."""
        self._pending.clear()
        self._sums = {name: list(entry) for name, entry in state.items()}

    def take(
        self, ranks: Ranks, greatest: Mapping[str, float] | None = None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Means over all ranks, and begin anew. Every rank calls this; it is one exchange.

        Args:
            ranks: The ranks.
            greatest: Figures of this rank of which the greatest of all ranks is wanted.

        Returns:
            The means, and the greatest figures.
        """
        total: dict[str, list[float]] = {}
        most: dict[str, float] = {}
        for sums, figures in ranks.gather((self.state(), dict(greatest or {}))):
            for name, (value, count) in sums.items():
                entry = total.setdefault(name.removeprefix(_ROWS), [0.0, 0.0])
                entry[0] += value
                entry[1] += count
            for name, value in figures.items():
                most[name] = max(value, most.get(name, value))
        self._sums = {}
        return {name: value / count for name, (value, count) in sorted(total.items())}, most


def means_for_ranks(means: list[dict[str, list[float]]], world_size: int, micro: float) -> list[dict[str, list[float]]]:
    """Unfinished means on another number of ranks than wrote them: all on the first rank.

    Every micro-batch of every rank counts once (the gradient's norm once a rank, rows once each), so what was counted
    before is weighed as if it had been counted by the ranks of now.

    Args:
        means: Name -> sum and count, of every rank that wrote them.
        world_size: Ranks there are now.
        micro: Micro-batches in a global batch now, over those then.
    """
    if len(means) == world_size:
        return means

    def weight(name: str) -> float:
        if name.startswith(_ROWS):
            return 1.0
        return world_size / len(means) if name in ONCE_A_RANK else micro

    names = dict.fromkeys(name for state in means for name in state)
    merged = {
        name: [weight(name) * sum(state[name][i] for state in means if name in state) for i in range(2)]
        for name in names
    }
    return [merged, *({} for _ in range(world_size - 1))]
