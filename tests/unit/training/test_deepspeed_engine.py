"""DeepSpeed's dictionary follows from our config, and what it cannot do is refused."""

from __future__ import annotations

from typing import Any

import pytest

from medcodi.errors import ConfigError
from medcodi.training.deepspeed_config import deepspeed_dictionary

from .toy import toy_config


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
        ({"engine": {"zero_stage": 0, "offload_optimizer": "cpu"}}, "zero_stage=1"),
        ({"engine": {"zero_stage": 3, "offload_optimizer": "nvme"}}, "offload_optimizer=cpu"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        deepspeed_dictionary(toy_config(**changes), 2, "cpu")


def test_offload_and_partitioned_weights_are_in_the_dictionary() -> None:
    engine = {"zero_stage": 3, "offload_optimizer": "cpu", "persist_below": 7}
    values = deepspeed_dictionary(toy_config(engine=engine), 1, "cpu")
    zero = values["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert zero["stage3_param_persistence_threshold"] == 7
    assert values["zero_force_ds_cpu_optimizer"] is False  # the optimiser stays ours
    plain = deepspeed_dictionary(toy_config(), 1, "cpu")
    assert "offload_optimizer" not in plain["zero_optimization"] and "zero_force_ds_cpu_optimizer" not in plain
