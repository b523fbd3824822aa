"""Classifier-free guidance (Ho & Salimans, 2022): by prompts, both halves in one batch; without a prompt, by what else is generated."""

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


def guided_by_each_other(together: Denoise, apart: Denoise, scale: float, unprompted: Tensor) -> Denoise:
    """Eps = eps_apart + s (eps_together - eps_apart), for the rows that have no prompt; the others as ``together`` says.

    Nothing but the other targets' environments tells such a row what its study is about, and a denoiser that hears them faintly
    must be made to follow. The same contrast as that of prompts, with joint attention in their place.

    Args:
        together: Denoises all targets, which hear each other.
        apart: The same without joint attention.
        scale: s. 1 is ``together``.
        unprompted: bool ``[B]``.
    """

    def denoise(latents: Mapping[str, Tensor], t: Tensor) -> Latents:
        heard, unheard = together(dict(latents), t), apart(dict(latents), t)
        result = {}
        for name, prediction in heard.items():
            rows = unprompted.to(prediction.device).view(-1, *(1,) * (prediction.dim() - 1))
            result[name] = torch.where(rows, unheard[name] + scale * (prediction - unheard[name]), prediction)
        return result

    return denoise
