"""Guidance: by prompts (classifier-free, Ho & Salimans, 2022); without a prompt by the other targets, or by a weaker model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from medcodi.transfer import to_device

Latents = dict[str, Tensor]  # target -> [B, *latent_shape]
Times = Tensor | Mapping[str, Tensor]  # timesteps [B] that all targets share, or target -> its own [B]
Denoise = Callable[[Latents, Any], Latents]  # latents [B, ...] of every target and `Times` -> predictions


def guided(denoise_doubled: Denoise, scale: float) -> Denoise:
    """Eps = eps_u + s (eps_c - eps_u), for every target of a joint run; s = 1 is the conditional prediction alone."""

    def denoise(latents: Mapping[str, Tensor], t: Times) -> Latents:
        # One call for 2 B rows, the unconditional half first.
        times = torch.cat([t, t]) if isinstance(t, Tensor) else {name: torch.cat([own, own]) for name, own in t.items()}
        doubled = denoise_doubled({name: torch.cat([z, z]) for name, z in latents.items()}, times)
        result = {}
        for name, prediction in doubled.items():
            unconditional, conditional = prediction.chunk(2)
            result[name] = unconditional + scale * (conditional - unconditional)
        return result

    return denoise


def guided_by_each_other(together: Denoise, apart: Denoise, scale: float, unprompted: Tensor) -> Denoise:
    """Eps = eps_apart + s (eps_together - eps_apart) in the rows ``unprompted`` (bool ``[B]``); eps_together elsewhere.

    Only the other targets' environments define the study of a row without a prompt, and a denoiser may follow them weakly; so
    joint attention (``together``) is contrasted with none (``apart``), as prompts are with the null prompt.
    """

    def denoise(latents: Mapping[str, Tensor], t: Times) -> Latents:
        joint, single = together(dict(latents), t), apart(dict(latents), t)
        result = {}
        for name, eps in joint.items():
            rows = to_device(unprompted, eps.device).view(-1, *(1,) * (eps.dim() - 1))  # [B, 1, ...]
            result[name] = torch.where(rows, single[name] + scale * (eps - single[name]), eps)
        return result

    return denoise


def guided_by_weaker(strong: Latents, weak: Latents, scale: float, rows: Tensor) -> Latents:
    """Eps = eps_weak + s (eps - eps_weak) in the ``rows`` (bool ``[B]``), eps elsewhere: autoguidance (Karras et al., 2024, arXiv 2406.02507).

    The weak model errs as the strong one does, but more, so away from it is towards the data. s = 1 is off.
    """
    result = {}
    for name, eps in strong.items():
        chosen = to_device(rows, eps.device).view(-1, *(1,) * (eps.dim() - 1))  # [B, 1, ...]
        result[name] = torch.where(chosen, weak[name] + scale * (eps - weak[name]), eps)
    return result
