"""Figures of the rows of a batch, cell by cell: sums and weights, so that means over ranks and micro-batches come out exact."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def tally(values: Tensor, weights: Tensor, cells: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What the rows of each cell come to, for the logs of a step.

    Nothing waits for the device, and sums are taken in the order of the rows, so the same rows give the same bits.

    Args:
        values: ``[B]``.
        weights: ``[B]``, bool or numbers; 0 leaves a row out, whatever its value.
        cells: int64 ``[B]``, an index into ``names``.
        names: One for each cell.

    Returns:
        Name -> float32 ``[2]``: the weighted sum and the sum of weights; a cell that nobody is in has two zeros.
    """
    values = values.detach().float()
    inside = cells.to(values.device)[None] == torch.arange(len(names), device=values.device)[:, None]  # [S, B]
    weight = weights.to(values)[None] * inside
    kept = torch.where(weight > 0, values[None], torch.zeros_like(weight))
    table = torch.stack([(kept * weight).sum(dim=1), weight.sum(dim=1)], dim=1)  # [S, 2]
    return dict(zip(names, table.unbind(), strict=True))
