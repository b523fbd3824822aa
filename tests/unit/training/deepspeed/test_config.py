"""DeepSpeed's dictionary follows from our config, and what it cannot do is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medcodi.errors import ConfigError
from medcodi.training.config import TrainConfig
from medcodi.training.deepspeed.config import deepspeed_dictionary, swap_folder
from medcodi.training.deepspeed.library import check_async_io, import_deepspeed
from tests.unit.training.toy import toy_config


def test_the_dictionary_says_what_the_config_says() -> None:
    config = toy_config(batch={"global_size": 16, "micro_size": 2}, precision="bf16", engine={"zero_stage": 1})
    values = deepspeed_dictionary(config, 4, "cpu")
    assert values["train_batch_size"] == 16 == 4 * 2 * 2
    assert values["train_micro_batch_size_per_gpu"] == 2 and values["gradient_accumulation_steps"] == 2
    assert values["zero_optimization"]["stage"] == 1 and values["gradient_clipping"] == 0.5
    whole = deepspeed_dictionary(toy_config(engine={"zero_stage": 0}), 1, "cpu")
    assert whole["gradient_clipping"] == 0.0  # done by the engine: DeepSpeed's own fails on scalars
    assert values["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "precision=bf16"),
        ({"compile": True, "engine": {"zero_stage": 3}}, "zero_stage=2"),
        ({"batch": {"global_size": 3}}, "multiple of"),
        ({"engine": {"zero_stage": 0, "offload_optimizer": "cpu"}}, "zero_stage=1"),
        ({"engine": {"zero_stage": 2, "offload_optimizer": "nvme", "nvme_path": "swap"}}, "zero_stage=3, or .*=cpu"),
        ({"engine": {"zero_stage": 2, "offload_parameters": "cpu"}}, "offload_parameters=none"),
        ({"engine": {"zero_stage": 3, "offload_parameters": "nvme", "nvme_path": "swap"}}, "offload_parameters"),
        ({"engine": {"offload_optimizer": "nvme", "zero_stage": 3}}, "nvme_path"),
        ({"engine": {"name": "plain", "offload_parameters": "cpu"}}, "only deepspeed offloads"),
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
    weights = deepspeed_dictionary(toy_config(engine={"zero_stage": 3, "offload_parameters": "cpu"}), 1, "cpu")
    assert weights["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert "offload_param" not in zero and "offload_optimizer" not in weights["zero_optimization"]


def nvme_config(path: Path, out: str = "runs/toy") -> TrainConfig:
    return toy_config(out=out, engine={"zero_stage": 3, "offload_optimizer": "nvme", "nvme_path": str(path)})


def test_the_optimizer_on_a_disk_is_in_the_dictionary_and_runs_do_not_share_files(tmp_path: Path) -> None:
    values = deepspeed_dictionary(nvme_config(tmp_path), 2, "cpu")["zero_optimization"]["offload_optimizer"]
    folder = Path(values.pop("nvme_path"))
    assert values == {"device": "nvme", "pin_memory": True, "buffer_count": 4}
    assert folder.parent == tmp_path and folder.name.startswith("toy-")
    assert swap_folder(nvme_config(tmp_path)) == folder
    assert swap_folder(nvme_config(tmp_path, "other/toy")) != folder


def test_without_what_deepspeed_reads_disks_with_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepspeed")
    import_deepspeed(torch.device("cpu"))
    monkeypatch.setenv("CC", "false")  # a compiler that finds no library
    with pytest.raises(ConfigError, match="libaio-dev.*or engine.offload_optimizer=cpu"):
        check_async_io(nvme_config(tmp_path / "swap"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="another engine.nvme_path"):
        check_async_io(nvme_config(tmp_path / "file"))
