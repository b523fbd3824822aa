"""Symmetric InfoNCE whose negatives come from every rank, with gradient, and never from the row's own study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from medcodi.randomness import seed_from_keys
from medcodi.stages.step import num_ranks
from medcodi.transfer import to_device

_NEVER = -1e9  # a logit whose softmax is 0


@dataclass(frozen=True)
class Contrast:
    """The result of one comparison: scalars; all but the loss are without gradient."""

    loss: Tensor  # 0 where no row has both sides
    accuracy: Tensor  # share of rows, both ways, whose partner is the nearest of all candidates
    num_rows: Tensor  # with both sides, on all ranks
    # standard deviation of the cosines of all rows with all partners; 0: every study is encoded the same
    spread: Tensor


class _GatherRows(torch.autograd.Function):
    """Gather the rows of all ranks; backward sums the gradients that every rank has for ours."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks in rank order, ``[ranks * B, ...]``, with gradient; B is the same on every rank."""
    if num_ranks() == 1:
        return rows
    if rows.requires_grad:
        return _GatherRows.apply(rows)
    sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    parts = [torch.empty_like(sent) for _ in range(num_ranks())]
    dist.all_gather(parts, sent.contiguous())
    return torch.cat(parts).to(rows.dtype)


def group_ids(names: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """Study (or patient) identifiers as int64 ``[B]``, the same number for the same name on every rank."""
    return to_device(torch.tensor([seed_from_keys(name) for name in names], dtype=torch.int64), device)


def info_nce(
    a: Tensor, b: Tensor, scale: Tensor | float, groups: Tensor | None = None, present: Tensor | None = None
) -> Contrast:
    """Symmetric InfoNCE of N pairs (van den Oord et al., 2018; Radford et al., 2021, figure 3).

    Args:
        a: Unit vectors ``[N, D]``.
        b: Their partners ``[N, D]``.
        scale: Inverse temperature that multiplies the cosines.
        groups: int64 ``[N]``; rows of equal number are never negatives of each other. None: all differ.
        present: bool ``[N]``, True where the row has both sides; the others do not count. None: all have.
    """
    num = len(a)
    own = torch.arange(num, device=a.device)
    present = torch.ones(num, dtype=torch.bool, device=a.device) if present is None else present
    with torch.autocast(a.device.type, enabled=False):
        logits = scale * a.float() @ b.float().T  # [N, N]
    spread = cosine_spread(logits.detach() / scale, present)

    # Exclude absent rows, and negatives of the row's own group.
    excluded = ~present[None, :] | ~present[:, None]  # [N, N]
    if groups is not None:
        excluded = excluded | (groups[:, None] == groups[None, :])
    logits = logits.masked_fill(excluded & ~torch.eye(num, dtype=torch.bool, device=a.device), _NEVER)

    # Classify each row's partner among all rows, both ways.
    weight = present.to(logits)
    num_rows = weight.sum()
    loss, hits = logits.new_zeros(()), logits.new_zeros(())
    for side in (logits, logits.T):
        loss = loss + 0.5 * (F.cross_entropy(side, own, reduction="none") * weight).sum() / num_rows.clamp(min=1)
        hits = hits + 0.5 * ((side.argmax(1) == own) * weight).sum() / num_rows.clamp(min=1)
    return Contrast(loss, hits.detach(), num_rows, spread)


@torch.no_grad()
def cosine_spread(cosines: Tensor, present: Tensor) -> Tensor:
    """Standard deviation over all pairs of present rows of ``[N, N]`` cosines; NaN with fewer than two rows."""
    weight = (present[:, None] & present[None, :]).to(cosines)
    num_pairs = weight.sum()
    mean = (cosines * weight).sum() / num_pairs
    variance = ((cosines - mean).square() * weight).sum() / num_pairs
    return torch.where(num_pairs > 1, variance.sqrt(), torch.full_like(variance, torch.nan))


def contrast(a: Tensor, b: Tensor, scale: Tensor | float, groups: Tensor, present: Tensor) -> Contrast:
    """:func:`info_nce` over the rows of all ranks, from the ``[B, ...]`` of this one; B is the same on every rank."""
    # Every rank computes the whole loss; averaging gradients over ranks, as data parallelism does, then gives those of one rank
    # with the whole batch.
    return info_nce(gather_rows(a), gather_rows(b), scale, gather_rows(groups), gather_rows(present))
