"""Attention kernels, one row each: the same result up to rounding, at different speed and memory."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from medcodi.errors import ConfigError, MissingExtraError, one_of

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class AttentionBackend:
    """One kernel."""

    attend: Attend  # queries [B, H, N, d], keys and values [B, H, L, d], offsets [B, 1, 1, L] or None -> [B, H, N, d]
    # Refuses a device and a precision on which it does not work.
    require: Callable[[torch.device, torch.dtype], None]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _sdpa_float32(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    # In float32 where a gradient is needed: a CPU's backward kernel takes several times as long in bfloat16. The fused kernel is
    # allowed here whatever a run allows elsewhere, because its backward pass is the fast one in float32.
    if not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)):
        return _sdpa(q, k, v, mask)
    with torch.autocast(q.device.type, enabled=False), sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        wide = _sdpa(q.float(), k.float(), v.float(), None if mask is None else mask.float())
    return wide.to(q.dtype)


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

    bias = None if mask is None else _aligned(mask.expand(-1, q.shape[1], q.shape[2], -1))
    q, k, v = (rearrange(t, "b h n d -> b n h d") for t in (q, k, v))
    return rearrange(memory_efficient_attention(q, k, v, attn_bias=bias), "b n h d -> b h n d")


def _aligned(bias: Tensor) -> Tensor:
    """The same offsets, stored in rows of a multiple of 8 numbers, as the kernels require."""
    length = bias.shape[-1]
    padded = torch.empty(*bias.shape[:-1], -(-length // 8) * 8, dtype=bias.dtype, device=bias.device)
    padded[..., :length] = bias
    return padded[..., :length]


def _require_xformers(device: torch.device, dtype: torch.dtype) -> None:
    if importlib.util.find_spec("xformers") is None:
        raise MissingExtraError("xformers", extra="xformers", needed_for="attention: xformers")
    # Try it on a small tensor; a refusal prints its reasons on many lines, of which one is shown.
    probe = torch.zeros(1, 8, 1, 32, device=device, dtype=dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]
        memory_efficient_attention(probe, probe, probe)
    except (ImportError, NotImplementedError, RuntimeError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next(
            (line for line in lines if "built" in line or "device=" in line), lines[0] if lines else "no reason given"
        )
        raise ConfigError(
            f"attention: xformers does not work with {str(dtype).removeprefix('torch.')} on {device}: {reason}",
            expected="a GPU that xformers has kernels for, and the build of xformers that was made for this PyTorch",
            fix="use attention: sdpa, or install the matching one with pip install 'medcodi[xformers]'",
        ) from None


ATTENTION_BACKENDS: dict[str, AttentionBackend] = {
    "sdpa": AttentionBackend(_sdpa, lambda device, dtype: None),
    "sdpa-float32": AttentionBackend(_sdpa_float32, lambda device, dtype: None),
    "xformers": AttentionBackend(_xformers, _require_xformers),
}


def attention_backend(name: str) -> AttentionBackend:
    """The row of that name; a ConfigError if there is none."""
    return ATTENTION_BACKENDS[one_of("attention", name, ATTENTION_BACKENDS, ConfigError)]
