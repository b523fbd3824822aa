"""How a stage's networks are executed in training: precision, attention kernels, activation checkpointing, compilation.

Each of these changes how a result is computed, not which; names of parameters stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from medcodi.model.execution import ExecutionConfig
from medcodi.networks.attention import Attention, AttentionBlock
from medcodi.networks.hearing import Connector

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RECOMPILE_LIMIT = 128  # shapes per class of block: more than a network has; torch gives up after 8


def autocast(device: torch.device, precision: str) -> Any:
    """Context in which products are computed at a precision (a key of ``DTYPES``); weights stay float32."""
    dtype = DTYPES[precision]
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


# ---- attention ---------------------------------------------------------------------------------------------------
def _fused_is_slow(precision: str, device: torch.device) -> bool:
    """Whether the backward passes of the fused attention kernels are slow there."""
    return precision == "bf16" and device.type == "cpu"


def choose_attention(module: nn.Module, precision: str, device: torch.device, *, skip_absent: bool = False) -> None:
    """On a CPU in bf16, compute attention by plain products, which are faster there; elsewhere nothing changes.

    The denoisers' in float32 (6 x in the backward pass, ``benchmarks/latent_cache.py``), that of the report autoencoder (a
    whole step 1.5 x) in bfloat16. The prompt encoders use what :func:`attention_kernels` allows. With ``skip_absent``, tokens of
    absent prompts get no keys and values, which leaves shapes to the data: not for compiled blocks, nor for gradients by study.
    """
    from transformers import PreTrainedModel

    if not _fused_is_slow(precision, device):
        return
    for part in module.modules():
        if isinstance(part, (Attention, Connector)):
            part.backend = "sdpa-float32"
            if isinstance(part, Attention):
                part.skips_absent = skip_absent
        elif isinstance(part, PreTrainedModel):
            part.set_attn_implementation("eager")


def attention_kernels(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context of a whole run, which restricts PyTorch's attention to the kernels that are fast in both passes."""
    return sdpa_kernel([SDPBackend.MATH]) if _fused_is_slow(precision, device) else nullcontext()


# ---- blocks: checkpointed or compiled one by one -----------------------------------------------------------------
def block_classes() -> tuple[type[nn.Module], ...]:
    """The blocks that networks consist of; of nested ones, the outermost counts.

    The blocks of the report decoder are not among them: they write to the cache that hands them the latent.
    """
    from diffusers.models.attention_processor import Attention as DiffusersAttention
    from diffusers.models.resnet import ResnetBlock2D
    from open_clip.transformer import ResidualAttentionBlock
    from transformers.models.bert.modeling_bert import BertLayer

    from medcodi.networks.image_layers import ResidualBlock
    from medcodi.networks.unet import Block
    from medcodi.networks.vector_layers import VectorResidualBlock

    own = (Block, Connector, AttentionBlock, ResidualBlock, VectorResidualBlock)
    return (*own, ResidualAttentionBlock, BertLayer, ResnetBlock2D, DiffusersAttention)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks that a module consists of, none inside another."""
    classes = block_classes()
    for child in module.children():
        if isinstance(child, classes):
            yield child
        else:
            yield from blocks_of(child)


def checkpoint_activations(module: nn.Module) -> int:
    """Have every block keep its inputs only, and recompute its activations in the backward pass; returns their number."""
    blocks = list(blocks_of(module))
    for block in blocks:
        block.forward = _recomputed(block.forward)
    return len(blocks)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed


def compile_blocks(module: nn.Module, device: torch.device, backend: str = "inductor") -> int:
    """Have torch compile the forward pass of every block, at its first use: once for all blocks of the same shapes.

    A whole stage is no use to the compiler: it tokenises reports and draws noise keyed by strings. Returns the number of
    blocks; raises ConfigError if there is no compiler for this device.
    """
    ExecutionConfig(compile=True).check(device)
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, RECOMPILE_LIMIT)
    blocks = list(blocks_of(module))
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=backend)
    return len(blocks)
