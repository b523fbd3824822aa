"""Encoded prompts of one modality: select rows, pad, replace, concatenate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medcodi.transfer import to_device


@dataclass(frozen=True)
class PromptEncoding:
    """Encoded prompts of one modality."""

    pooled: Tensor  # float32 [B, D], L2 norm 1
    tokens: Tensor  # [B, L, D], divided by the norm of the pooled vector before its normalisation
    mask: Tensor  # bool [B, L], True where there is a token

    def __len__(self) -> int:
        return len(self.pooled)

    def to(self, device: torch.device | str) -> PromptEncoding:
        """The same on a device."""
        return PromptEncoding(*(to_device(part, device) for part in (self.pooled, self.tokens, self.mask)))

    def rows(self, index: Tensor | slice) -> PromptEncoding:
        """The chosen rows."""
        return PromptEncoding(self.pooled[index], self.tokens[index], self.mask[index])

    def expand(self, batch: int) -> PromptEncoding:
        """One row, repeated ``batch`` times without copying."""
        assert len(self) == 1, len(self)
        return PromptEncoding(
            self.pooled.expand(batch, -1), self.tokens.expand(batch, -1, -1), self.mask.expand(batch, -1)
        )

    def padded(self, length: int) -> PromptEncoding:
        """The same with L = ``length``; added tokens are masked."""
        more = length - self.tokens.shape[1]
        return PromptEncoding(self.pooled, F.pad(self.tokens, (0, 0, 0, more)), F.pad(self.mask, (0, more)))

    def where(self, keep: Tensor, other: PromptEncoding) -> PromptEncoding:
        """Rows of this one where ``keep`` (bool ``[B]``) is True, of ``other`` elsewhere."""
        length = max(self.tokens.shape[1], other.tokens.shape[1])
        ours, theirs = self.padded(length), other.padded(length)
        return PromptEncoding(
            torch.where(keep[:, None], ours.pooled, theirs.pooled),
            torch.where(keep[:, None, None], ours.tokens, theirs.tokens),
            torch.where(keep[:, None], ours.mask, theirs.mask),
        )

    @staticmethod
    def concatenate(encodings: Sequence[PromptEncoding]) -> PromptEncoding:
        """All rows, one encoding after the other."""
        length = max(encoding.tokens.shape[1] for encoding in encodings)
        padded = [encoding.padded(length) for encoding in encodings]
        return PromptEncoding(
            *(torch.cat([getattr(part, name) for part in padded]) for name in ("pooled", "tokens", "mask"))
        )
