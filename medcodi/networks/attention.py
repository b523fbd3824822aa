"""Attention of a map to its own positions, to prompts, and to the environments of other denoisers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.networks.attention_backends import ATTENTION_BACKENDS

Projected = tuple[Tensor, ...]  # keys and values [B, H, L, d]; of one key: the output [B, 1, C]


@dataclass(frozen=True)
class Context:
    """Tokens that a denoiser attends to."""

    tokens: Tensor  # [B, L, D]
    # [B, L], added to the attention logits: 0 for a token of weight 1, -inf for an absent one. None where there is one token: the
    # softmax over one key is 1 whatever its logit.
    log_weight: Tensor | None = None
    projected: Projected | None = None  # one attention layer's projection of the tokens, where it is known already
    memory: dict[Hashable, list[Context]] | None = (
        None  # denoiser -> the projections of all its layers; None: not stored
    )
    # The tokens whose weight is not 0, [n, D], and their places among all B * L. None: every token is projected.
    present: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @staticmethod
    def cat(contexts: list[Context]) -> Context:
        """Contexts of several batches as one batch (same ``L``)."""
        weights = [context.log_weight for context in contexts]
        bias = torch.cat([w for w in weights if w is not None]) if all(w is not None for w in weights) else None
        return Context(torch.cat([context.tokens for context in contexts]), bias)

    def to(self, target: torch.device | str | torch.dtype) -> Context:
        """The same on a device, or in another precision (the offsets keep theirs)."""
        weight = self.log_weight
        if weight is not None and not isinstance(target, torch.dtype):
            weight = weight.to(target)
        return replace(self, tokens=self.tokens.to(target), log_weight=weight)

    def remembering(self) -> Context:
        """The same for sampling, where prompts stay: each layer's projection of the tokens is computed once and stored.

        Exact, but not for training, nor across a change of the weights.
        """
        return replace(self, memory={})

    def for_layers(self, owner: Hashable, layers: Sequence[Attention], dtype: torch.dtype) -> list[Context]:
        """One context for each cross-attention layer of the denoiser ``owner``, in its weights' ``dtype``."""
        if self.memory is not None and owner in self.memory:
            return self.memory[owner]
        device = self.tokens.device.type
        if torch.is_autocast_enabled(device):  # cast once here: every layer would cast again
            dtype = torch.get_autocast_dtype(device)
        plain = Context(self.tokens.to(dtype), self.log_weight)
        if self.memory is None:
            skip = any(layer.skips_absent for layer in layers)
            return [plain.without_absent() if skip else plain] * len(layers)
        self.memory[owner] = [replace(plain, projected=layer.project(plain)) for layer in layers]
        return self.memory[owner]

    def without_absent(self) -> Context:
        """The same with ``present`` set; absent tokens are zeros, and so are their keys and values, which need no product."""
        if self.log_weight is None:
            return self
        places = self.log_weight.isfinite().flatten().nonzero().squeeze(1)  # [n]
        return replace(self, present=(self.tokens.flatten(0, 1)[places], places))


class Attention(nn.Module):
    """Multi-head attention of queries to a context (or to themselves), without query, key and value biases.

    With one key the softmax is 1, so only the value product is computed, which is exact.
    """

    def __init__(self, dim: int, *, num_heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        assert dim % num_heads == 0, f"{dim} channels over {num_heads} heads"
        self.num_heads = num_heads
        self.backend = "sdpa"  # a row of ATTENTION_BACKENDS
        self.skips_absent = False  # whether keys and values are made of the tokens that carry weight alone
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """``[B, N, C]`` from queries ``x`` ``[B, N, C]``, which are also keys and values without a context (of ``[B, L, D]``)."""
        if context is None:
            projected, log_weight = self._keys_values(x), None
        else:
            projected, log_weight = context.projected or self.project(context), context.log_weight
        if len(projected) == 1:
            return projected[0].expand(-1, x.shape[1], -1)
        k, v = projected
        mask = None if log_weight is None else log_weight[:, None, None, :].to(k.dtype)
        out = ATTENTION_BACKENDS[self.backend].attend(self._heads(self.to_q(x)), k, v, mask)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))

    def project(self, context: Context) -> Projected:
        """Keys and values ``[B, H, L, C / H]`` of a context ``[B, L, D]``; of one token, the output ``[B, 1, C]``."""
        if context.tokens.shape[1] == 1:
            return (self.to_out(self.to_v(context.tokens)),)
        if context.present is None:
            return self._keys_values(context.tokens)
        tokens, places = context.present
        size = context.tokens.shape[:2]
        keys, values = (
            torch.zeros(size.numel(), part.shape[1], dtype=part.dtype, device=part.device)
            .index_copy_(0, places, part)  # in place: the other form copies row by row
            .unflatten(0, size)
            for part in (self.to_k(tokens), self.to_v(tokens))
        )
        return self._heads(keys), self._heads(values)

    def _keys_values(self, context: Tensor) -> Projected:
        return self._heads(self.to_k(context)), self._heads(self.to_v(context))

    def _heads(self, t: Tensor) -> Tensor:
        return rearrange(t, "b n (h d) -> b h n d", h=self.num_heads)


class GatedFeedForward(nn.Module):
    """GEGLU: first half value, second half gate (Shazeer, 2020)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * 4 * dim)
        self.out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, C]``."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate) if torch.is_grad_enabled() else F.gelu(gate).mul_(value))


class AttentionBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward over the positions of a map: Stable Diffusion 1.x's spatial transformer."""

    # Used twice: with the prompts as context, and (zero_init) with the environment vectors of the other targets.

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
        h = self.norm(x.contiguous() if torch.is_grad_enabled() else x)
        h = self.proj_in(rearrange(h, "b c h w -> b (h w) c"))

        # Attend to the map, then to the context, each added to what it reads; then the feed-forward.
        h = h + self.self_attention(self.norm1(h))
        one_key = context.tokens.shape[1] == 1
        query = h if one_key else self.norm2(h)  # one key needs no query
        h = h + self.cross_attention(query, context)
        h = h + self.feed_forward(self.norm3(h))
        return x + rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=x.shape[2])
