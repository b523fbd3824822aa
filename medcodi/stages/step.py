"""One micro-batch's part of a training step: its keyed draws, means over all rows of the step, and its logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from medcodi.diffusion.objective import timesteps_from_uniform
from medcodi.randomness import StepRandomness
from medcodi.stages.accumulation import Accumulation, Rows

NUM_BUCKETS = 10  # of timesteps, in a validation
_TIMES = "t"  # timesteps are drawn under this name, or "t/<target>"

Where = Callable[[Rows], Tensor]  # rows of a micro-batch -> weights [B], bool or numbers; 0 leaves a row out


@dataclass
class Step:
    """A step as one micro-batch takes part in it: its randomness, its rows, and what it logs."""

    draws: StepRandomness  # all randomness of the step, keyed by (seed, step, sample)
    rows: Rows  # of this micro-batch
    accumulation: Accumulation | None = None  # rows of all micro-batches of the step; None: this is the only one
    logs: dict[str, Tensor] = field(default_factory=dict)  # see StepOutput

    def mean(self, values: Tensor, where: Where, weights: Tensor | None = None, *, log: str | None = None) -> Tensor:
        """This micro-batch's term of the mean of ``values`` ``[B]`` over the global batch; engines average terms (:func:`mean_over_ranks`).

        ``where`` gives the weights of any micro-batch's rows; ``weights`` those of ``values``, if these are only some rows of this one.
        ``log`` names the term in the log, where it is NaN (absent) if no row of the step counts: 0 would be a perfect loss.
        """
        parts = (self.rows,) if self.accumulation is None else self.accumulation.rows
        weights = where(self.rows) if weights is None else weights
        term, total = _term_and_total(values, weights, [where(rows) for rows in parts])
        if log is not None:
            self.logs[log] = torch.where(total > 0, term.detach(), torch.nan)
        return term

    def log_cells(self, values: Tensor, weights: Tensor, cells: Tensor, names: Sequence[str]) -> None:
        """Log the mean of the rows of each cell; see :func:`cell_sums`."""
        self.logs |= cell_sums(values, weights, cells, names)

    def log_timesteps(self, name: str, values: Tensor, weights: Tensor, num_train_timesteps: int) -> None:
        """In a validation, log ``"t/000-099/<name>"`` and so on, the mean of the rows of each bucket; nothing in training."""
        if isinstance(self.draws, ValidationRandomness):
            names = [f"{bucket}/{name}" for bucket in bucket_names(num_train_timesteps)]
            self.log_cells(values, weights, self.draws.buckets, names)


# ---- means and sums over rows ----------------------------------------------------------------------------------------
def num_ranks() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(values: Tensor, weights: Tensor, parts: Sequence[Tensor] | None = None) -> Tensor:
    """``micro-batches * ranks * sum(w v) / (sum of w of all micro-batches and ranks)``; 0 where no rank has a row.

    Averaged over micro-batches and ranks, as engines average losses and gradients, it is the weighted mean over the rows of
    the global batch, however unevenly present rows are spread.

    Args:
        values: ``[B]``.
        weights: ``[B]``, bool or numbers; 0 leaves a row out, whatever its value.
        parts: Weights of every micro-batch of this rank's step, these among them; None: there is this one.
    """
    return _term_and_total(values, weights, parts)[0]


def _term_and_total(values: Tensor, weights: Tensor, parts: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """:func:`mean_over_ranks`, and the sum of the weights of all micro-batches and ranks."""
    weights = weights.to(values)
    parts = [weights] if parts is None else [part.to(values) for part in parts]
    total = torch.stack([part.sum() for part in parts]).sum()
    if num_ranks() > 1:
        total = total.clone()
        dist.all_reduce(total)
    counted = torch.where(weights > 0, values, torch.zeros_like(values))
    return len(parts) * num_ranks() * (counted * weights).sum() / total.clamp(min=1e-12), total


def cell_sums(values: Tensor, weights: Tensor, cells: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Name of each cell -> float32 ``[2]``, the weighted sum and the sum of weights of its rows, for exact means over ranks.

    Nothing waits for the device, and sums are taken in the order of the rows, so the same rows give the same bits.

    Args:
        values: ``[B]``.
        weights: ``[B]``, bool or numbers; 0 leaves a row out, whatever its value.
        cells: int64 ``[B]``, an index into ``names``.
        names: One for each of the S cells.
    """
    values = values.detach().float()
    inside = cells.to(values.device)[None] == torch.arange(len(names), device=values.device)[:, None]  # [S, B]
    weight = weights.to(values)[None] * inside  # [S, B]
    counted = torch.where(weight > 0, values[None], torch.zeros_like(weight))
    table = torch.stack([(counted * weight).sum(dim=1), weight.sum(dim=1)], dim=1)  # [S, 2]
    return dict(zip(names, table.unbind(), strict=True))


# ---- timesteps -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class ValidationRandomness(StepRandomness):
    """Draws of a validation, the same every time: timesteps are stratified, choices are taken in turn."""

    positions: tuple[int, ...]  # of each row in the validation; row i draws its timesteps from bucket i mod 10
    turn: int = 0  # which kind of step a stage takes that has several

    @property
    def buckets(self) -> Tensor:
        """Bucket of each row: int64 ``[B]``."""
        return torch.tensor(self.positions, dtype=torch.long) % NUM_BUCKETS

    def uniform(self, what: str, num: int = 1) -> Tensor:
        """As in training, but timesteps are in the row's bucket."""
        drawn = super().uniform(what, num)
        timed = what == _TIMES or what.startswith(f"{_TIMES}/")
        return (self.buckets[:, None] + drawn) / NUM_BUCKETS if timed else drawn

    def choice(self, what: str, num: int) -> int:
        """The next in turn."""
        return self.turn % num


def draw_timesteps(draws: StepRandomness, what: str, num_train_timesteps: int) -> Tensor:
    """Uniform timesteps int64 ``[B]`` in 0..num_train_timesteps-1, on the CPU; ``what`` is ``"t"`` or ``"t/<target>"``."""
    return timesteps_from_uniform(draws.uniform(what)[:, 0], num_train_timesteps)


def bucket_names(num_train_timesteps: int) -> list[str]:
    """``"t/000-099"`` and so on: the timesteps of each bucket, exact where their number is a multiple of the buckets'."""
    # Edges are rounded up.
    edges = [-(-bucket * num_train_timesteps // NUM_BUCKETS) for bucket in range(NUM_BUCKETS + 1)]
    return [f"{_TIMES}/{first:03d}-{after - 1:03d}" for first, after in pairwise(edges)]
