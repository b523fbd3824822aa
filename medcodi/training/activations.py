"""Activation checkpointing: blocks keep their inputs only, and are computed anew when the backward pass comes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def block_classes() -> tuple[type[nn.Module], ...]:
    """The blocks that networks are made of; of nested ones, the outermost is taken.

    The blocks of the report decoder are not among them: they write to the cache that hands them the latent.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from open_clip.transformer import ResidualAttentionBlock
    from transformers.models.bert.modeling_bert import BertLayer

    from medcodi.networks.attention import AttentionBlock
    from medcodi.networks.report_denoiser import VectorResidualBlock
    from medcodi.networks.unet import Block, ResidualBlock

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
