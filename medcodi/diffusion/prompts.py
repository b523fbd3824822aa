"""Several prompts, one context: which prompts a sample is trained with, and how prompts are mixed (paper, eq. for multi-prompt c)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_prompts(available: Tensor, u: Tensor, most: int | None = None) -> Tensor:
    """For each sample, a non-empty subset of its available prompts, uniformly.

    Args:
        available: bool ``[B, P]``: which prompts a sample has (the target is not among the columns).
        u: Uniform numbers in [0, 1), ``[B]``.
        most: Of how many prompts a subset may be; None: of all.

    Returns:
        bool ``[B, P]``: the chosen subset; empty only where nothing is available.
    """
    num = available.shape[1]
    codes = [code for code in range(1, 2**num) if most is None or code.bit_count() <= most]
    subsets = torch.tensor([[bool(code >> p & 1) for p in range(num)] for code in codes], dtype=torch.bool)  # [S, P]
    possible = ~(subsets[None] & ~available.cpu()[:, None]).any(dim=2)  # [B, S]
    count = possible.sum(dim=1)
    rank = (u.cpu() * count).long().clamp(max=(count - 1).clamp(min=0))  # which of the possible ones
    chosen = (possible.cumsum(dim=1) == (rank + 1)[:, None]) & possible
    return (chosen[..., None] & subsets[None]).any(dim=1).to(available.device)


def mix_pooled(pooled: Sequence[Tensor], weights: Tensor) -> Tensor:
    """C = sum_i w_i c_i / sum_i w_i: the paper's mixing, one token.

    Args:
        pooled: One ``[B, D]`` for each prompt.
        weights: ``[B, P]``, >= 0, 0 where absent; every row has a positive one.

    Returns:
        ``[B, 1, D]``. Absent prompts do not enter, whatever their values (even NaN).
    """
    stacked = torch.stack(list(pooled), dim=1)  # [B, P, D]
    w = (weights / weights.sum(dim=1, keepdim=True)).to(stacked.dtype)[..., None]  # [B, P, 1]
    return torch.where(w > 0, stacked * w, torch.zeros_like(stacked)).sum(dim=1, keepdim=True)


def mix_tokens(tokens: Sequence[Tensor], masks: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """All prompts' tokens side by side; weights become logit offsets: a token of weight w counts like w copies of it.

    Args:
        tokens: One ``[B, L_p, D]`` for each prompt.
        masks: One bool ``[B, L_p]`` for each prompt, True where there is a token.
        weights: ``[B, P]``, >= 0, 0 where absent; every row has a positive one.

    Returns:
        Tokens ``[B, sum(L_p), D]`` and the offsets to their attention logits ``[B, sum(L_p)]``: log(w_p / sum w),
        ``-inf`` where there is no token.
    """
    w = weights / weights.sum(dim=1, keepdim=True)
    parts, offsets = [], []
    for index, (several, mask) in enumerate(zip(tokens, masks, strict=True)):
        here = mask & (w[:, index] > 0)[:, None]  # [B, L_p]
        parts.append(torch.where(here[..., None], several, torch.zeros_like(several)))
        offsets.append(torch.where(here, w[:, index : index + 1].log(), -torch.inf))
    return torch.cat(parts, dim=1), torch.cat(offsets, dim=1).float()
