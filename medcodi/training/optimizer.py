"""AdamW's parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from medcodi.training.config import OptimizerConfig


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter that has ``requires_grad``, in the module's order; shared ones once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices and kernels, which decay, and scalars and vectors (norms, biases), which do not."""
    parameters = list(trained_parameters(module).values())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, options: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters, fused: one pass over memory a step, on CPU and GPU alike."""
    groups = parameter_groups(module, options.weight_decay)
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)


def learning_rate(options: OptimizerConfig, step: int, horizon: int) -> float:
    """Learning rate of one step.

    Args:
        options: Peak, warm-up and schedule.
        step: Counted from 0.
        horizon: Step at which the cosine has come down.
    """
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return options.lr
    progress = min(1.0, (step - options.warmup_steps) / max(1, horizon - options.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return options.lr * (options.min_lr_ratio + (1.0 - options.min_lr_ratio) * cosine)
