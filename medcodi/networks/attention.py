"""Attention to a map's own positions, to prompts, and to what other denoisers say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Context:
    """What a denoiser may attend to.

    Attributes:
        tokens: ``[B, L, D]``.
        log_weight: ``[B, L]``, added to the attention logits: 0 for a token of weight 1, ``-inf`` for an absent one.
            None where there is one token, since the softmax over one key is 1 whatever its logit.
    """

    tokens: Tensor
    log_weight: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def to(self, dtype: torch.dtype) -> Context:
        """The same in another precision."""
        return self if self.tokens.dtype == dtype else Context(self.tokens.to(dtype), self.log_weight)

    @staticmethod
    def cat(contexts: list[Context]) -> Context:
        """Contexts of several batches as one batch (same ``L``)."""
        weights = [context.log_weight for context in contexts]
        bias = torch.cat([w for w in weights if w is not None]) if all(w is not None for w in weights) else None
        return Context(torch.cat([context.tokens for context in contexts]), bias)


class Attention(nn.Module):
    """Multi-head attention of queries to a context (or to themselves), without query, key and value biases.

    With one key the softmax is 1: the value product alone is computed, which is exact.
    """

    def __init__(self, dim: int, *, num_heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        assert dim % num_heads == 0, f"{dim} channels over {num_heads} heads"
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, log_weight: Tensor | None = None) -> Tensor:
        """``x`` ``[B, N, C]``, ``context`` ``[B, L, D]`` or None for self-attention, ``log_weight`` ``[B, L]`` -> ``[B, N, C]``."""
        keys = x if context is None else context
        if context is not None and context.shape[1] == 1:
            return self.to_out(self.to_v(context)).expand(-1, x.shape[1], -1)
        q, k, v = (self._heads(t) for t in (self.to_q(x), self.to_k(keys), self.to_v(keys)))
        mask = None if log_weight is None else log_weight[:, None, None, :].to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, H, N, C/H]
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _heads(self, t: Tensor) -> Tensor:
        return t.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class GatedFeedForward(nn.Module):
    """GEGLU: first half value, second half gate (Shazeer, 2020)."""

    def __init__(self, dim: int, *, expansion: int = 4) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * expansion * dim)
        self.out = nn.Linear(expansion * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, C]``."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class AttentionBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward over the positions of a map: Stable Diffusion 1.x's spatial transformer.

    Serves twice: with the prompts as context, and (``zero_init``) as the block through which a denoiser hears the
    environment vectors of the other targets.
    """

    def __init__(self, dim: int, *, context_dim: int, num_heads: int, num_groups: int, zero_init: bool = False) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.self_attention = Attention(dim, num_heads=num_heads)
        self.cross_attention = Attention(dim, num_heads=num_heads, context_dim=context_dim)
        self.feed_forward = GatedFeedForward(dim)
        self.proj_out = nn.Linear(dim, dim)
        if zero_init:
            nn.init.zeros_(self.proj_out.weight)
            nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """``x`` ``[B, C, H, W]`` -> the same shape."""
        # On a channels-last map that needs no gradient itself, GroupNorm's CPU backward ends the process (torch 2.12).
        h = self.norm(x.contiguous())
        h = self.proj_in(h.flatten(2).transpose(1, 2))  # [B, HW, C]
        h = h + self.self_attention(self.norm1(h))
        one_key = context.tokens.shape[1] == 1
        h = h + self.cross_attention(h if one_key else self.norm2(h), context.tokens, context.log_weight)
        h = h + self.feed_forward(self.norm3(h))
        return x + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])
