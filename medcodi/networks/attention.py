"""Attention to a map's own positions, to prompts, and to what other denoisers say."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.networks.attention_backends import ATTENTION_BACKENDS

Projected = tuple[Tensor, ...]  # keys and values [B, H, L, d]; of one key: the output [B, 1, C]


@dataclass(frozen=True)
class Context:
    """What a denoiser may attend to.

    Attributes:
        tokens: ``[B, L, D]``.
        log_weight: ``[B, L]``, added to the attention logits: 0 for a token of weight 1, ``-inf`` for an absent one.
            None where there is one token, since the softmax over one key is 1 whatever its logit.
        projected: What one attention layer makes of the tokens, where that is known already.
        memory: Where denoisers keep what their layers make of the tokens, see :meth:`remembering`; None: nowhere.
    """

    tokens: Tensor
    log_weight: Tensor | None = None
    projected: Projected | None = None
    memory: dict[Hashable, list[Context]] | None = None

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
        """The same, for many calls: what each layer makes of the tokens is computed at the first one and kept with the context.

        For sampling, where prompts stay and latents change. Exact; not for training, nor across a change of the weights.
        """
        return replace(self, memory={})

    def for_layers(self, owner: Hashable, layers: Sequence[Attention], dtype: torch.dtype) -> list[Context]:
        """One context for each cross-attention layer of a denoiser.

        Args:
            owner: The denoiser, under which its layers' work is remembered.
            layers: In the order in which they are called.
            dtype: Of the denoiser's weights.
        """
        if self.memory is not None and owner in self.memory:
            return self.memory[owner]
        device = self.tokens.device.type
        if torch.is_autocast_enabled(device):  # here once, or every layer would cast them anew
            dtype = torch.get_autocast_dtype(device)
        plain = Context(self.tokens.to(dtype), self.log_weight)
        if self.memory is None:
            return [plain] * len(layers)
        self.memory[owner] = [replace(plain, projected=layer.project(plain.tokens)) for layer in layers]
        return self.memory[owner]


class Attention(nn.Module):
    """Multi-head attention of queries to a context (or to themselves), without query, key and value biases.

    With one key the softmax is 1: the value product alone is computed, which is exact.

    Attributes:
        backend: A row of ``ATTENTION_BACKENDS``: how the products are computed, not what they are.
    """

    def __init__(self, dim: int, *, num_heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        assert dim % num_heads == 0, f"{dim} channels over {num_heads} heads"
        self.num_heads = num_heads
        self.backend = "sdpa"
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        log_weight: Tensor | None = None,
        projected: Projected | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: ``[B, N, C]``.
            context: ``[B, L, D]``, or None for self-attention.
            log_weight: ``[B, L]``, added to the logits.
            projected: What :meth:`project` made of the context, where that is known already.

        Returns:
            ``[B, N, C]``.
        """
        if projected is None:
            projected = self._keys_values(x) if context is None else self.project(context)
        if len(projected) == 1:
            return projected[0].expand(-1, x.shape[1], -1)
        k, v = projected
        mask = None if log_weight is None else log_weight[:, None, None, :].to(k.dtype)
        out = ATTENTION_BACKENDS[self.backend].attend(self._heads(self.to_q(x)), k, v, mask)  # [B, H, N, C/H]
        return self.to_out(out.transpose(1, 2).flatten(2))

    def project(self, context: Tensor) -> Projected:
        """What a context ``[B, L, D]`` contributes: keys and values ``[B, H, L, C/H]``, or of one key the output ``[B, 1, C]``."""
        return (self.to_out(self.to_v(context)),) if context.shape[1] == 1 else self._keys_values(context)

    def _keys_values(self, context: Tensor) -> Projected:
        return self._heads(self.to_k(context)), self._heads(self.to_v(context))

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
        return self.out(value * F.gelu(gate) if torch.is_grad_enabled() else F.gelu(gate).mul_(value))


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
        h = self.norm(x.contiguous() if torch.is_grad_enabled() else x)
        h = self.proj_in(h.flatten(2).transpose(1, 2))  # [B, HW, C]
        h = h + self.self_attention(self.norm1(h))
        one_key = context.tokens.shape[1] == 1
        query = h if one_key else self.norm2(h)
        h = h + self.cross_attention(query, context.tokens, context.log_weight, context.projected)
        h = h + self.feed_forward(self.norm3(h))
        return x + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])
