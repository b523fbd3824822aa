"""DeepSpeed's configuration, derived from ours; settings that DeepSpeed does not support are refused."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from medcodi.errors import ConfigError
from medcodi.training.config import TrainConfig


def deepspeed_dictionary(config: TrainConfig, world_size: int, device_type: str) -> dict[str, Any]:
    """DeepSpeed's configuration of a run.

    Weights stay float32 and bf16 is autocast, as on the plain engine, so both compute the same.

    Raises:
        ConfigError: If DeepSpeed does not support a setting.
    """
    _check_supported(config, device_type)
    accumulation = config.batch.accumulation(world_size)
    clip = config.optimizer.grad_clip if config.engine.zero_stage else None  # under ZeRO-0 our engine clips
    values: dict[str, Any] = {
        "train_batch_size": config.batch.global_size,
        "train_micro_batch_size_per_gpu": config.batch.global_size // (world_size * accumulation),
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip or 0.0,
        "zero_optimization": _zero(config),
        "zero_allow_untested_optimizer": True,  # the optimiser is that of the plain engine
        "steps_per_print": 2**31,
    }
    if config.engine.offload_optimizer != "none":
        values["zero_force_ds_cpu_optimizer"] = False  # fused AdamW passes over memory once too
    if config.precision == "bf16":
        values["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return values


def _zero(config: TrainConfig) -> dict[str, Any]:
    engine = config.engine
    values: dict[str, Any] = {"stage": engine.zero_stage, "overlap_comm": False}
    if engine.zero_stage == 3:
        values["stage3_param_persistence_threshold"] = engine.persist_below
    if engine.offload_optimizer != "none":
        values["offload_optimizer"] = {"device": engine.offload_optimizer, "pin_memory": True}
    if engine.offload_parameters != "none":
        values["offload_param"] = {"device": engine.offload_parameters, "pin_memory": True}
    if engine.offload_optimizer == "nvme":  # four buffers: a shard of weights, of both moments, and of gradients
        values["offload_optimizer"] |= {"nvme_path": str(swap_folder(config)), "buffer_count": 4}
    return values


def swap_folder(config: TrainConfig) -> Path:
    """Folder of a run's offloaded state, below ``engine.nvme_path``, which several runs may share."""
    out = Path(config.out).resolve()
    return Path(config.engine.nvme_path or "") / f"{out.name}-{zlib.crc32(str(out).encode()):08x}"


def _check_supported(config: TrainConfig, device_type: str) -> None:
    engine = config.engine
    if config.precision == "fp16" and device_type != "cuda":
        raise ConfigError("precision fp16 on the CPU", expected="a GPU for fp16", fix="precision=bf16")
    if config.precision == "fp16":
        raise ConfigError(
            "precision fp16 under DeepSpeed", expected="bf16 or fp32", fix="precision=bf16, or engine.name=plain"
        )
    if config.compile and engine.zero_stage == 3:
        raise ConfigError(
            "compile with engine.zero_stage 3", expected="one of them", fix="compile=false, or engine.zero_stage=2"
        )
    if engine.offload_optimizer == "cpu" and engine.zero_stage == 0:
        raise ConfigError(
            "engine.offload_optimizer cpu with engine.zero_stage 0",
            expected="an optimiser that is partitioned",
            fix="engine.zero_stage=1 or higher",
        )
    if engine.offload_optimizer == "nvme" and engine.zero_stage < 3:
        raise ConfigError(
            f"engine.offload_optimizer nvme with engine.zero_stage {engine.zero_stage}",
            expected="engine.zero_stage 3, the only one whose optimiser DeepSpeed swaps to disk",
            fix="engine.zero_stage=3, or engine.offload_optimizer=cpu",
        )
    if engine.offload_parameters != "none" and engine.zero_stage < 3:
        raise ConfigError(
            f"engine.offload_parameters {engine.offload_parameters} with engine.zero_stage {engine.zero_stage}",
            expected="weights that are partitioned",
            fix="engine.zero_stage=3, or engine.offload_parameters=none",
        )
