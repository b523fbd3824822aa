"""torch.compile, block by block: small graphs without a break, compiled once for all blocks of the same shapes.

A whole stage is no use to the compiler: it tokenises reports and draws noise keyed by strings, each step with other ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medcodi.model.execution import ExecutionConfig
from medcodi.training.activations import blocks_of

SHAPES = 128  # of one class of block: more than a network has; torch gives up after 8


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
    settings.recompile_limit = max(settings.recompile_limit, SHAPES)
    blocks = list(blocks_of(module))
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=backend)
    return len(blocks)
