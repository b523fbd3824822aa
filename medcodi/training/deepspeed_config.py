"""DeepSpeed's dictionary, derived from our config, so that there is one truth; what DeepSpeed cannot do is refused."""

from __future__ import annotations

from typing import Any

from medcodi.errors import ConfigError
from medcodi.training.config import TrainConfig


def deepspeed_dictionary(config: TrainConfig, world_size: int, device_type: str) -> dict[str, Any]:
    """Our config in DeepSpeed's words.

    Weights stay float32 and bf16 is autocast, exactly as on the plain engine, so both compute the same thing.

    Raises:
        ConfigError: For what DeepSpeed cannot do.
    """
    _refuse_what_cannot_be(config, device_type)
    accumulation = config.batch.accumulation(world_size)
    values: dict[str, Any] = {
        "train_batch_size": config.batch.global_size,
        "train_micro_batch_size_per_gpu": config.batch.global_size // (world_size * accumulation),
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optimizer.grad_clip or 0.0,
        "zero_optimization": _zero(config),
        "zero_allow_untested_optimizer": True,  # the optimiser is ours, the same as on the plain engine
        "steps_per_print": 2**31,
    }
    if config.engine.offload_optimizer != "none":
        values["zero_force_ds_cpu_optimizer"] = (
            False  # ours again: fused AdamW is as much one pass over memory as theirs
        )
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
    return values


def _refuse_what_cannot_be(config: TrainConfig, device_type: str) -> None:
    engine = config.engine
    if config.precision == "fp16" and device_type != "cuda":
        raise ConfigError("precision fp16 on the CPU", expected="a GPU for fp16", mend="precision=bf16")
    if config.precision == "fp16":
        raise ConfigError(
            "precision fp16 under DeepSpeed", expected="bf16 or fp32", mend="precision=bf16, or engine.name=plain"
        )
    if config.compile and engine.zero_stage == 3:
        raise ConfigError(
            "compile with engine.zero_stage 3", expected="one of them", mend="compile=false, or engine.zero_stage=2"
        )
    if engine.offload_optimizer == "cpu" and engine.zero_stage == 0:
        raise ConfigError(
            "engine.offload_optimizer cpu with engine.zero_stage 0",
            expected="a partitioned optimiser",
            mend="engine.zero_stage=1 or higher",
        )
    if engine.offload_optimizer == "nvme":
        raise ConfigError(
            "engine.offload_optimizer nvme",
            expected="none or cpu: an optimiser whose state is swapped to disk has not been shown to resume bit for bit",
            mend="engine.offload_optimizer=cpu",
        )
