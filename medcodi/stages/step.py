"""One micro-batch's part of a training step: its keyed draws, means over all rows of the step, and its logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from medcodi.diffusion.objective import timesteps_from_uniform
from medcodi.randomness import StepRandomness

NUM_BUCKETS = 10  # of timesteps, in a validation
_TIMES = "t"  # timesteps are drawn under this name, or "t/<target>"


@dataclass(frozen=True)
class Rows:
    """Identifiers of the B rows of a batch, and which modalities each has."""

    present: Mapping[str, Tensor]  # modality -> bool [B]
    study_ids: list[str]
    patient_ids: list[str]

    @staticmethod
    def of(batch: Any) -> Rows:
        """Rows of a ``Batch`` or an ``EncodedBatch``."""
        return Rows(batch.present, batch.study_ids, batch.patient_ids)

    @staticmethod
    def cat(parts: Sequence[Rows]) -> Rows:
        """All rows, one batch after the other."""
        return Rows(
            {name: torch.cat([part.present[name] for part in parts]) for name in parts[0].present},
            [name for part in parts for name in part.study_ids],
            [name for part in parts for name in part.patient_ids],
        )


Where = Callable[[Rows], Tensor]  # rows of a micro-batch -> weights [B], bool or numbers; 0 leaves a row out


class StepOutput(NamedTuple):
    """Loss and logs of one forward pass: a tuple, because engines look for tensors in what a module returns."""

    loss: Tensor  # scalar, with gradient
    # Name -> a scalar without gradient, to be averaged over ranks and micro-batches; or [2], a weighted sum and the sum of its
    # weights, to be added up over them (cell_sums).
    logs: dict[str, Tensor]


@dataclass
class Step:
    """A step as one micro-batch takes part in it: its randomness, its rows, and what it logs."""

    draws: StepRandomness  # all randomness of the step, keyed by (seed, step, sample)
    rows: Rows  # of this micro-batch
    accumulation: Accumulation | None = None  # rows of all micro-batches of the step; None: this is the only one
    logs: dict[str, Tensor] = field(default_factory=dict)  # see StepOutput

    def mean(
        self,
        values: Tensor,
        where: Where,
        weights: Tensor | None = None,
        *,
        factors: Tensor | None = None,
        log: str | None = None,
    ) -> Tensor:
        """This micro-batch's term of the mean of ``values`` ``[B]`` over the global batch; engines average terms (:func:`mean_term`).

        ``where`` gives the weights of any micro-batch's rows; ``weights`` those of ``values``, if these are only some rows of this one.
        ``factors`` ``[B]`` multiply the values, but not in the log. ``log`` names the term in the log, where it is NaN (absent) if no
        row of the step counts: 0 would be a perfect loss.
        """
        micro_batches = (self.rows,) if self.accumulation is None else self.accumulation.rows
        all_weights = [where(rows) for rows in micro_batches]
        weights = where(self.rows) if weights is None else weights
        term, total = mean_term(values, weights, all_weights)
        if log is not None:
            self.logs[log] = torch.where(total > 0, term.detach(), torch.nan)
        return term if factors is None else mean_term(values * factors, weights, all_weights)[0]

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


def mean_term(values: Tensor, weights: Tensor, all_weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``micro-batches * ranks * sum(w v) / (sum of w of all micro-batches and ranks)``, 0 where no rank has a row; and that sum.

    Averaged over micro-batches and ranks, as engines average losses and gradients, the term is the weighted mean over the rows of
    the global batch, however unevenly present rows are spread.

    Args:
        values: ``[B]``.
        weights: ``[B]``, bool or numbers; 0 leaves a row out, whatever its value.
        all_weights: Weights of every micro-batch of this rank's step, these among them.
    """
    weights = weights.to(values)
    total = torch.stack([each.to(values).sum() for each in all_weights]).sum()
    if num_ranks() > 1:
        total = total.clone()
        dist.all_reduce(total)
    counted = torch.where(weights > 0, values, torch.zeros_like(values))
    return len(all_weights) * num_ranks() * (counted * weights).sum() / total.clamp(min=1e-12), total


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


# ---- exact accumulation ----------------------------------------------------------------------------------------------
# A loss that compares studies (InfoNCE) takes its negatives from the whole global batch. Its features are computed twice: for all
# micro-batches without gradient, to get the loss and its derivative by each feature; then for each micro-batch with gradient,
# multiplied by that derivative (gradient caching: Gao et al., 2021, arXiv 2101.06983). Memory is that of one micro-batch.

Features = dict[str, Tensor]  # name -> [B, ...], or a scalar that all studies share


@dataclass(frozen=True)
class Comparison:
    """A loss over the features of all micro-batches, and its derivative by each of them."""

    loss: Tensor  # scalar, without gradient
    logs: dict[str, Tensor]
    gradients: list[Features]  # for each micro-batch, name -> derivative of the loss by its feature

    def attached(self, index: int, features: Features) -> Tensor:
        """The loss, whose backward pass hands its gradient to the features of micro-batch ``index``.

        Engines average over micro-batches, so the gradient of rows that one micro-batch alone holds is multiplied by their number.
        """
        gradients, count = self.gradients[index], len(self.gradients)
        terms = [
            (features[name] * gradient).sum() * (count if gradient.ndim else 1) for name, gradient in gradients.items()
        ]
        carrier = torch.stack(terms).sum()  # d carrier / d feature = gradient
        return self.loss + (carrier - carrier.detach())  # the parenthesis is 0


@dataclass(frozen=True)
class Accumulation:
    """All micro-batches of this rank's step, as one of them sees them."""

    index: int  # of this one
    rows: tuple[Rows, ...]  # of each
    comparison: Comparison | None = None  # of the features of all; None where the stage compares nothing


def accumulations(
    compare: Callable[[Features, Rows], StepOutput], batches: Sequence[Any], features: Iterator[Features]
) -> list[Accumulation | None]:
    """Compare the features of the rank's micro-batches; the result for each in order, None where there is only one.

    Every rank calls this once a step, because comparisons exchange features. ``features`` are computed when they are iterated.
    """
    if len(batches) < 2:
        return [None] * len(batches)
    rows = tuple(Rows.of(batch) for batch in batches)
    with torch.no_grad():
        parts = list(features)
    comparison = _compared(compare, parts, Rows.cat(rows)) if parts[0] else None
    return [Accumulation(index, rows, comparison) for index in range(len(batches))]


def _compared(compare: Callable[[Features, Rows], StepOutput], parts: Sequence[Features], rows: Rows) -> Comparison:
    # Join the features of all micro-batches; scalars are the same in each.
    joined = {
        name: torch.cat([part[name] for part in parts]) if first.ndim else first for name, first in parts[0].items()
    }
    leaves = {name: value.detach().clone().requires_grad_() for name, value in joined.items()}

    # Differentiate the loss by them.
    with torch.enable_grad():
        output = compare(leaves, rows)
    derivatives = torch.autograd.grad(output.loss, list(leaves.values()), materialize_grads=True)

    # Split each derivative into the rows of each micro-batch again.
    gradients: list[Features] = [{} for _ in parts]
    for (name, leaf), derivative in zip(leaves.items(), derivatives, strict=True):
        sizes = [len(part[name]) for part in parts] if leaf.ndim else []
        pieces = derivative.split(sizes) if leaf.ndim else [derivative] * len(parts)
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient[name] = piece
    return Comparison(output.loss.detach(), output.logs, gradients)
