"""How attention is computed in training: a CPU's own way in bfloat16, where its fused kernels' backward passes are slow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from medcodi.networks.attention import Attention


def _is_slow(precision: str, device: torch.device) -> bool:
    return precision == "bf16" and device.type == "cpu"


def choose_attention(module: nn.Module, precision: str, device: torch.device) -> None:
    """On a CPU in bf16, have attention computed by plain products, which are faster there; elsewhere nothing changes.

    The denoisers' in float32 (6 x in the backward pass, ``benchmarks/latent_cache.py``), that of the report autoencoder (a
    whole step 1.5 x) in bfloat16. That of the prompt encoders follows :func:`attention_kernels`.
    """
    if not _is_slow(precision, device):
        return
    for part in module.modules():
        if isinstance(part, Attention):
            part.backend = "sdpa-float32"
        elif isinstance(part, PreTrainedModel):
            part.set_attn_implementation("eager")


def attention_kernels(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context of a whole run, backward passes and recomputed activations included: which kernels PyTorch's attention may take."""
    return sdpa_kernel([SDPBackend.MATH]) if _is_slow(precision, device) else nullcontext()
