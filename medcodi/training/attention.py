"""How attention is computed in training: a CPU's own way in bfloat16."""

from __future__ import annotations

import torch
from torch import nn

from medcodi.networks.attention import Attention


def choose_attention(module: nn.Module, precision: str, device: torch.device) -> None:
    """On a CPU in bf16 have the denoisers' attention computed in float32, which is faster there: 6 x in the backward pass.

    ``benchmarks/latent_cache.py`` measures it. On other devices and at other precisions nothing changes.
    """
    if precision != "bf16" or device.type != "cpu":
        return
    for part in module.modules():
        if isinstance(part, Attention):
            part.backend = "sdpa-float32"
