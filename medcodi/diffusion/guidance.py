"""Classifier-free guidance (Ho & Salimans, 2022), both halves in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Latents = dict[str, Tensor]
Denoise = Callable[[Latents, Tensor], Latents]


def guided(denoise_doubled: Denoise, scale: float) -> Denoise:
    """Eps = eps_u + s (eps_c - eps_u), for every target of a joint run.

    Args:
        denoise_doubled: Denoises a batch of 2 B rows: the unconditional half first.
        scale: s. 1 is the conditional prediction alone.

    Returns:
        A function of latents ``[B, ...]`` and timesteps ``[B]``.
    """

    def denoise(latents: Mapping[str, Tensor], t: Tensor) -> Latents:
        doubled = denoise_doubled({name: torch.cat([z, z]) for name, z in latents.items()}, torch.cat([t, t]))
        result = {}
        for name, prediction in doubled.items():
            unconditional, conditional = prediction.chunk(2)
            result[name] = unconditional + scale * (conditional - unconditional)
        return result

    return denoise
