"""Exact accumulation: the micro-batches of one step give the loss and the gradients of one large batch.

A loss that compares studies (InfoNCE) takes its negatives from the whole global batch. Its features are computed twice: for all
micro-batches without gradient, to get the loss and its derivative by each feature; then for each micro-batch with gradient,
multiplied by that derivative (gradient caching: Gao et al., 2021, arXiv 2101.06983). Memory is that of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Features = dict[str, Tensor]  # name -> [B, ...], or a scalar that all studies share


class StepOutput(NamedTuple):
    """Loss and logs of one forward pass: a tuple, because engines look for tensors in what a module returns."""

    loss: Tensor  # scalar, with gradient
    # Name -> a scalar without gradient, to be averaged over ranks and micro-batches; or [2], a weighted sum and the sum of its
    # weights, to be added up over them (medcodi.stages.step.cell_sums).
    logs: dict[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """Identifiers of the B rows of a batch, and which modalities each has."""

    present: Mapping[str, Tensor]  # modality -> bool [B]
    study_ids: list[str]
    patient_ids: list[str]

    @staticmethod
    def of(batch: Any) -> Rows:
        """Rows of a batch, encoded or not."""
        return Rows(batch.present, batch.study_ids, batch.patient_ids)

    @staticmethod
    def cat(parts: Sequence[Rows]) -> Rows:
        """All rows, one batch after the other."""
        return Rows(
            {name: torch.cat([part.present[name] for part in parts]) for name in parts[0].present},
            [name for part in parts for name in part.study_ids],
            [name for part in parts for name in part.patient_ids],
        )


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
