"""DeepSpeed's dictionary follows from our config, and what it cannot do is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medcodi.errors import ConfigError
from medcodi.training.deepspeed_engine import DeepSpeedEngine, deepspeed_dictionary
from medcodi.training.processes import Processes

from .toy import ToyStage, toy_config


def test_the_dictionary_says_what_the_config_says() -> None:
    config = toy_config(batch={"global_size": 16, "micro_size": 2}, precision="bf16", engine={"zero_stage": 1})
    values = deepspeed_dictionary(config, 4, "cpu")
    assert values["train_batch_size"] == 16 == 4 * 2 * 2
    assert values["train_micro_batch_size_per_gpu"] == 2 and values["gradient_accumulation_steps"] == 2
    assert values["zero_optimization"]["stage"] == 1 and values["gradient_clipping"] == 0.5
    assert values["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "precision=bf16"),
        ({"compile": True, "engine": {"zero_stage": 3}}, "zero_stage=2"),
        ({"batch": {"global_size": 3}}, "multiple of"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        deepspeed_dictionary(toy_config(**changes), 2, "cpu")


def test_partitioned_scalars_are_refused_before_anything_starts() -> None:
    stage = ToyStage()
    stage.register_parameter("logit_scale", nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(ConfigError, match="logit_scale"):
        DeepSpeedEngine(stage, toy_config(engine={"zero_stage": 3}), Processes())
