"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from medcodi.training.config import OptimizerConfig
from medcodi.training.optimizer import build_optimizer, learning_rate, parameter_groups, trained_parameters


def test_norms_biases_and_scalars_do_not_decay() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Linear(2, 2))
    module.register_parameter("logit_scale", nn.Parameter(torch.tensor(1.0)))
    decaying, plain = parameter_groups(module, 0.1)
    assert {parameter.ndim for parameter in decaying["params"]} == {2, 4} and decaying["weight_decay"] == 0.1
    assert {parameter.ndim for parameter in plain["params"]} == {0, 1} and plain["weight_decay"] == 0.0


def test_frozen_parameters_are_left_out_and_shared_ones_come_once() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    assert list(trained_parameters(module)) == ["0.weight", "0.bias", "2.bias"]


def test_the_schedule_warms_up_and_comes_down() -> None:
    options = OptimizerConfig(lr=2.0, warmup_steps=4, min_lr_ratio=0.1)
    rates = [learning_rate(options, step, 20) for step in range(30)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0 and rates[12] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[20] == rates[29] == pytest.approx(0.2)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[4:]))
    constant = OptimizerConfig(lr=2.0, schedule="constant")
    assert {learning_rate(constant, step, 20) for step in range(30)} == {2.0}


def test_the_optimizer_is_the_fused_one() -> None:
    assert build_optimizer(nn.Linear(1, 1), OptimizerConfig()).defaults["fused"] is True


def test_one_step_of_adamw_by_hand() -> None:
    """First step: moments are g and g^2 after bias correction, so the update is lr * sign(g) + lr * decay * w."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.constant_(weight.weight, 2.0)
    optimizer = build_optimizer(weight, OptimizerConfig(lr=0.1, weight_decay=0.5, eps=1e-12))
    weight(torch.ones(1, 1)).backward()
    optimizer.step()
    assert weight.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1)
