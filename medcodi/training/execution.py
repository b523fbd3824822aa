"""How a stage's networks are executed in training: precision, attention kernels, activation checkpointing, compilation.

Each function changes how results are computed, never what is computed; names of parameters stay as they are.
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

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RECOMPILE_LIMIT = 128  # shapes of one class of block: more than a network has; torch gives up after 8


# ---- precision ---------------------------------------------------------------------------------------------------
def autocast(device: torch.device, precision: str) -> Any:
    """Context in which a run of this precision (a key of ``DTYPES``) computes on a device."""
    dtype = DTYPES[precision]
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


# ---- attention ---------------------------------------------------------------------------------------------------
def _is_slow(precision: str, device: torch.device) -> bool:
    return precision == "bf16" and device.type == "cpu"


def choose_attention(module: nn.Module, precision: str, device: torch.device) -> None:
    """On a CPU in bf16, have attention computed by plain products, which are faster there; elsewhere nothing changes.

    The denoisers' in float32 (6 x in the backward pass, ``benchmarks/latent_cache.py``), that of the report autoencoder (a
    whole step 1.5 x) in bfloat16. That of the prompt encoders follows :func:`attention_kernels`.
    """
    from transformers import PreTrainedModel

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


# ---- blocks: checkpointed or compiled one by one -----------------------------------------------------------------
def block_classes() -> tuple[type[nn.Module], ...]:
    """The blocks that networks are made of; of nested ones, the outermost is taken.

    The blocks of the report decoder are not among them: they write to the cache that hands them the latent.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from open_clip.transformer import ResidualAttentionBlock
    from transformers.models.bert.modeling_bert import BertLayer

    from medcodi.networks.image_layers import ResidualBlock
    from medcodi.networks.unet import Block
    from medcodi.networks.vector_layers import VectorResidualBlock

    own = (Block, AttentionBlock, ResidualBlock, VectorResidualBlock)
    return (*own, ResidualAttentionBlock, BertLayer, ResnetBlock2D, Attention)


def checkpoint_activations(module: nn.Module) -> int:
    """Make every block of a module that holds trained parameters, or passes gradients on to one, compute its result twice.

    Names of parameters stay. Nothing changes where no gradient is asked for.

    Returns:
        Number of blocks.
    """
    blocks = list(blocks_of(module))
    for block in blocks:
        block.forward = _computed_twice(block.forward)
    return len(blocks)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks that a module is made of, none inside another."""
    return _outermost(module, block_classes())


def _outermost(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, classes):
            yield child
        else:
            yield from _outermost(child, classes)


def _computed_twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def computed_twice(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return computed_twice


def compile_blocks(module: nn.Module, device: torch.device, backend: str = "inductor") -> int:
    """Compile what every block of a module computes, at its first use; names of parameters stay.

    Args:
        module: It.
        device: Where it will run.
        backend: torch's name of what compiles the graphs.

    Returns:
        Number of blocks.

    Raises:
        ConfigError: If there is no compiler for this device.
    """
    ExecutionConfig(compile=True).check(device)
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, RECOMPILE_LIMIT)
    blocks = list(blocks_of(module))
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=backend)
    return len(blocks)
