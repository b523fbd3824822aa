"""What the micro-batches of one step must know of each other, so that accumulation gives what one large batch gives.

A loss that compares studies (InfoNCE) has its negatives in the whole global batch. Its features are computed twice: for all
micro-batches without gradient, to compare them and to learn what the loss asks of each; then for each micro-batch with
gradient, which is given that answer (gradient caching: Gao et al., 2021, arXiv 2101.06983). Memory is that of one
micro-batch, loss and gradients are those of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from medcodi.stages.stage import Stage

Features = dict[str, Tensor]  # name -> [B, ...], or a scalar that all studies share


@dataclass(frozen=True)
class Rows:
    """Who the rows of a batch are.

    Attributes:
        present: Modality -> bool ``[B]``.
        study_ids: B identifiers.
        patient_ids: B identifiers.
    """

    present: Mapping[str, Tensor]
    study_ids: list[str]
    patient_ids: list[str]

    @staticmethod
    def of(batch: Any) -> Rows:
        """Those of a batch, encoded or not."""
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
    """A loss over features of all micro-batches, and what it asks of each.

    Attributes:
        loss: Scalar, without gradient.
        logs: Of the comparison.
        gradients: For each micro-batch, name -> derivative of the loss by its feature.
    """

    loss: Tensor
    logs: dict[str, Tensor]
    gradients: list[Features]

    def attached(self, index: int, features: Features) -> Tensor:
        """The loss, through which a backward pass gives this micro-batch's features their gradient.

        Engines average over micro-batches: what belongs to the rows of one alone is multiplied by their number.
        """
        asked, count = self.gradients[index], len(self.gradients)
        terms = [
            (features[name] * gradient).sum() * (count if gradient.ndim else 1) for name, gradient in asked.items()
        ]
        carrier = torch.stack(terms).sum()
        return self.loss + (carrier - carrier.detach())  # the parenthesis is 0


@dataclass(frozen=True)
class Share:
    """What a micro-batch knows of its step.

    Attributes:
        index: Which of the rank's micro-batches it is.
        rows: Those of all of them, in order.
        comparison: Of the features of all; None where the stage compares nothing.
    """

    index: int
    rows: tuple[Rows, ...]
    comparison: Comparison | None = None


def each_weight(share: Share | None, weights: Callable[[Rows], Tensor]) -> list[Tensor] | None:
    """A weight of the rows of every micro-batch, as ``mean_over_ranks`` takes it; None where there is one micro-batch."""
    return None if share is None else [weights(rows) for rows in share.rows]


def shares(stage: Stage, batches: Sequence[Any], features: Iterator[Features]) -> list[Share | None]:
    """What each micro-batch of a step must know, in order; nothing for a single one.

    Every rank calls this once a step, for comparisons exchange features.

    Args:
        stage: The stage.
        batches: The rank's micro-batches, on their device.
        features: The stage's features of each, computed as they are asked for.
    """
    if len(batches) < 2:
        return [None] * len(batches)
    rows = tuple(Rows.of(batch) for batch in batches)
    with torch.no_grad():
        found = list(features)
    comparison = _comparison(stage, found, Rows.cat(rows)) if found[0] else None
    return [Share(index, rows, comparison) for index in range(len(batches))]


def _comparison(stage: Stage, found: Sequence[Features], rows: Rows) -> Comparison:
    leaves = {
        name: torch.cat([part[name] for part in found]) if first.ndim else first for name, first in found[0].items()
    }
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    with torch.enable_grad():
        output = stage.compare(leaves, rows)
    asked = dict(
        zip(leaves, torch.autograd.grad(output.loss, list(leaves.values()), materialize_grads=True), strict=True)
    )
    sizes = {name: [len(part[name]) for part in found] for name, leaf in leaves.items() if leaf.ndim}
    pieces = {name: gradient.split(sizes[name]) for name, gradient in asked.items() if gradient.ndim}
    gradients = [
        {name: pieces[name][index] if name in pieces else gradient for name, gradient in asked.items()}
        for index in range(len(found))
    ]
    return Comparison(output.loss.detach(), output.logs, gradients)
