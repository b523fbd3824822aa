"""AdamW's parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from medcodi.training.config import OptimizerConfig


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter with ``requires_grad``, in the module's order; shared ones once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices and kernels, with weight decay; scalars and vectors (norms, biases), without."""
    parameters = list(trained_parameters(module).values())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters; fused, it passes over memory once per step, on CPU and GPU."""
    groups = parameter_groups(module, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(config: OptimizerConfig, step: int, horizon: int) -> float:
    """Learning rate of one step, counted from 0; the cosine ends at step ``horizon``."""
    # Linear warm-up, from lr / warmup_steps to lr.
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    # Half a cosine, from lr to lr * min_lr_ratio.
    progress = min(1.0, (step - config.warmup_steps) / max(1, horizon - config.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * cosine)
