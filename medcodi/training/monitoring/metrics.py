"""Means of logged values over steps, micro-batches and ranks: one torchmetrics metric that never waits for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from medcodi.distributed import Ranks
from medcodi.transfer import to_device

ROWS = "rows:"  # prefix of the names, in a state, of sums over rows: they weigh the same on any number of ranks
ONCE_PER_RANK = ("grad_norm", "clipped")  # counted once per step on each rank, not once per micro-batch

State = Mapping[str, Sequence[float]]  # name -> (sum, weight)


class NamedMeans(Metric):
    """Running means of named values; NaN and weight 0 count as absent.

    A scalar has weight 1. A ``[2]`` is a weighted sum and its weight (:func:`medcodi.stages.step.cell_sums`); the mean is over
    all rows of all ranks. One metric holds all names, because their set differs between steps and ranks: ranks exchange
    names and sums at once, where one metric per name would need the same names in the same order everywhere.
    """

    full_state_update = False
    sums: Tensor  # float64 [N, 2], the sum and the weight of each name, on the rank's device

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(dist_sync_fn=self._gather, distributed_available_fn=lambda: ranks.world_size > 1)
        self._ranks = ranks
        self._row: dict[str, int] = {}  # name -> row of sums
        # Names that came together before -> their rows, on the device.
        self._indices: dict[tuple[str, ...], Tensor] = {}
        self._synced_names: list[str] | None = None  # names of the rows between synchronisation and compute
        empty = torch.zeros(0, 2, dtype=torch.float64, device=ranks.device)
        self.add_state("sums", empty, dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor | float]) -> None:
        """Add values; those on the device stay there."""
        scalars, pairs, numbers = {}, {}, {}
        for name, value in values.items():
            if not isinstance(value, Tensor):
                numbers[name] = float(value)
            elif value.ndim:
                pairs[f"{ROWS}{name}"] = value.detach()
            else:
                scalars[name] = value.detach()
        names = (*scalars, *pairs, *numbers)
        if not names:
            return

        # One (sum, weight) per name: [n, 2].
        device, parts = self.sums.device, []
        if scalars:
            column = torch.stack([value.to(device) for value in scalars.values()]).double()
            parts.append(torch.stack([column, torch.ones_like(column)], dim=1))
        if pairs:
            parts.append(torch.stack([value.to(device) for value in pairs.values()]).double())
        if numbers:
            pairs_of_numbers = torch.tensor([[value, 1.0] for value in numbers.values()], dtype=torch.float64)
            parts.append(to_device(pairs_of_numbers, device))
        entries = torch.cat(parts)

        # A value that is NaN, or that no row has, adds nothing.
        absent = entries[:, :1].isnan() | (entries[:, 1:] == 0)
        rows = self._rows_of(names)  # may grow the sums
        self.sums.index_add_(0, rows, torch.where(absent, 0.0, entries))

    def _rows_of(self, names: tuple[str, ...]) -> Tensor:
        """The rows of these names, int64 ``[n]``; new names get new rows."""
        if names not in self._indices:
            rows = [self._row.setdefault(name, len(self._row)) for name in names]
            self._indices[names] = torch.tensor(rows, device=self.sums.device)
        missing = len(self._row) - len(self.sums)
        if missing:
            self.sums = torch.cat([self.sums, self.sums.new_zeros(missing, 2)])
        return self._indices[names]

    def compute(self) -> dict[str, float]:
        """The means, sorted by name, over all ranks; every rank calls this."""
        names = list(self._row) if self._synced_names is None else self._synced_names
        self._synced_names = None
        entries = zip(names, self.sums.tolist(), strict=False)  # the only wait for the device
        means = {name.removeprefix(ROWS): total / weight for name, (total, weight) in entries if weight}
        return dict(sorted(means.items()))

    def take(self) -> dict[str, float]:
        """Means over all ranks, then start anew. Every rank calls this; it is one exchange."""
        self.update({})  # torchmetrics warns of a metric without an update: a window whose steps were all skipped
        means = self.compute()
        self.reset()
        return means

    def _gather(self, sums: Tensor, group: Any = None) -> list[Tensor]:
        """The sums of every rank, with the rows of all ranks' names in one order: what torchmetrics adds up."""
        parts = self._ranks.gather(dict(zip(self._row, sums.tolist(), strict=False)))
        self._synced_names = sorted({name for part in parts for name in part})
        absent = [0.0, 0.0]
        return [
            torch.tensor([part.get(name, absent) for name in self._synced_names], dtype=torch.float64).reshape(-1, 2)
            for part in parts
        ]

    # ---- state in a checkpoint ----------------------------------------------------------------------------------
    def state(self) -> dict[str, list[float]]:
        """Sum and weight of each name on this rank, ready for JSON: unfinished means survive a resume bit for bit."""
        entries = zip(self._row, self.sums.tolist(), strict=False)
        return {name: entry for name, entry in entries if entry[1]}

    def load(self, state: State) -> None:
        """Restore what :meth:`state` returned."""
        self.reset()
        if state:
            rows = self._rows_of(tuple(state))
            self.sums[rows] = torch.tensor([list(entry) for entry in state.values()], dtype=torch.float64).to(
                rows.device
            )


def redistribute(states: Sequence[State], world_size: int, micro_ratio: float) -> list[State]:
    """Unfinished means of some ranks for another number of ranks: the first rank takes all.

    A step adds a scalar once per micro-batch of every rank (``ONCE_PER_RANK``: once per rank; rows: once each), so sums
    and weights are scaled as if the ranks of now had added them.

    Args:
        states: :meth:`NamedMeans.state` of every rank that wrote them.
        world_size: Number of ranks now.
        micro_ratio: Micro-batches in a global batch now, divided by those then.
    """
    if len(states) == world_size:
        return list(states)

    def scale(name: str) -> float:
        if name.startswith(ROWS):
            return 1.0
        return world_size / len(states) if name in ONCE_PER_RANK else micro_ratio

    names = dict.fromkeys(name for state in states for name in state)
    merged = {
        name: [scale(name) * sum(state[name][column] for state in states if name in state) for column in range(2)]
        for name in names
    }
    return [merged, *({} for _ in range(world_size - 1))]
