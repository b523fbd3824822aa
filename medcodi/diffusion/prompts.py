"""Several prompts, one context: draw the prompts of a sample in training, and mix prompts (paper, eq. for multi-prompt c)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medcodi.transfer import to_device


def draw_prompts(
    available: Tensor,  # bool [B, P]
    u: Tensor,  # [B], uniform in [0, 1), on the same device
    most: int | None = None,
) -> Tensor:
    """For each sample, a non-empty subset of its available prompts, of at most ``most``; empty where there are none: ``[B, P]``."""
    # List all S subsets; a subset is possible for a sample that has all of its prompts.
    num = available.shape[1]
    codes = [code for code in range(1, 2**num) if most is None or code.bit_count() <= most]
    subsets = torch.tensor([[bool(code >> p & 1) for p in range(num)] for code in codes], dtype=torch.bool)
    subsets = to_device(subsets, available.device)  # [S, P]
    possible = ~(subsets[None] & ~available[:, None]).any(dim=2)  # [B, S]

    # Choose the possible one of index floor(u * count).
    count = possible.sum(dim=1)
    index = (u * count).long().clamp(max=(count - 1).clamp(min=0))
    chosen = (possible.cumsum(dim=1) == (index + 1)[:, None]) & possible
    return (chosen[..., None] & subsets[None]).any(dim=1)


def mix_pooled(pooled: Sequence[Tensor], weights: Tensor) -> Tensor:
    """C = sum_i w_i c_i / sum_i w_i: the paper's mixing, one token ``[B, 1, D]`` of P encodings ``[B, D]``.

    Weights ``[B, P]`` are >= 0, and 0 where a prompt is absent, whose values (even NaN) then have no influence; every row has a
    positive one.
    """
    stacked = torch.stack(list(pooled), dim=1)  # [B, P, D]
    w = (weights / weights.sum(dim=1, keepdim=True)).to(stacked.dtype)[..., None]  # [B, P, 1]
    return torch.where(w > 0, stacked * w, torch.zeros_like(stacked)).sum(dim=1, keepdim=True)


def mix_tokens(tokens: Sequence[Tensor], masks: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """All prompts' tokens ``[B, L_p, D]`` side by side; weights become logit offsets: a token of weight w counts like w copies.

    ``masks`` are bool ``[B, L_p]``, True where there is a token; weights are as for :func:`mix_pooled`. The offsets
    ``[B, sum(L_p)]`` are log(w_p / sum w), ``-inf`` where there is no token.
    """
    w = weights / weights.sum(dim=1, keepdim=True)
    parts, offsets = [], []
    for index, (part, mask) in enumerate(zip(tokens, masks, strict=True)):
        present = mask & (w[:, index] > 0)[:, None]  # [B, L_p]
        parts.append(torch.where(present[..., None], part, torch.zeros_like(part)))
        offsets.append(torch.where(present, w[:, index : index + 1].log(), -torch.inf))
    return torch.cat(parts, dim=1), torch.cat(offsets, dim=1).float()
