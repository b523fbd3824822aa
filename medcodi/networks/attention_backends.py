"""How attention is computed, a row each: the result is the same up to rounding, speed and memory are not."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from medcodi.errors import ConfigError, MissingExtraError, one_of

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class AttentionBackend:
    """One way to compute attention.

    Attributes:
        attend: Queries ``[B, H, N, d]``, keys and values ``[B, H, L, d]``, logit offsets ``[B, 1, 1, L]`` or None ->
            ``[B, H, N, d]``.
        require: Refuses a device and a precision on which it does not work.
    """

    attend: Attend
    require: Callable[[torch.device, torch.dtype], None]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _sdpa_float32(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """In float32 where a gradient is asked for: a CPU's backward kernel takes several times as long in bfloat16.

    The fused kernel is allowed here whatever a run allows elsewhere: in float32 its backward pass is the fast one.
    """
    if not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)):
        return _sdpa(q, k, v, mask)
    with torch.autocast(q.device.type, enabled=False), sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        wide = _sdpa(q.float(), k.float(), v.float(), None if mask is None else mask.float())
    return wide.to(q.dtype)


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

    bias = None if mask is None else _aligned(mask.expand(-1, q.shape[1], q.shape[2], -1))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [B, N, H, d]
    return memory_efficient_attention(q, k, v, attn_bias=bias).transpose(1, 2)


def _aligned(bias: Tensor) -> Tensor:
    """The same offsets in memory whose rows are a multiple of 8 long, as the kernels demand."""
    length = bias.shape[-1]
    roomy = torch.empty(*bias.shape[:-1], -(-length // 8) * 8, dtype=bias.dtype, device=bias.device)
    roomy[..., :length] = bias
    return roomy[..., :length]


def _require_xformers(device: torch.device, dtype: torch.dtype) -> None:
    if importlib.util.find_spec("xformers") is None:
        raise MissingExtraError("xformers", extra="xformers", needed_for="attention: xformers")
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
    """The row of that name.

    Raises:
        ConfigError: If there is none.
    """
    return ATTENTION_BACKENDS[one_of("attention", name, ATTENTION_BACKENDS, ConfigError)]
