"""The library DeepSpeed: imported and checked, and what our engine does to its objects under ZeRO-3.

Under ZeRO-3 weights are partitioned over all ranks, and DeepSpeed's hooks gather them where a module runs. Every rank must run the same
modules in the same order, because all ranks take part in gathering each. The stages ensure it: what a step runs follows from the config
and the step alone, not from the modalities that a rank's studies have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medcodi.distributed import Ranks
from medcodi.errors import ConfigError, MissingExtraError, TrainingError
from medcodi.training.config import TrainConfig
from medcodi.training.deepspeed.config import deepspeed_dictionary, swap_folder


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed, quiet, and on the CPU without the communication kernel that it would compile at first use."""
    try:
        import deepspeed
        from deepspeed.ops import __compatible_ops__
        from deepspeed.utils import logger
    except ImportError:
        raise MissingExtraError("deepspeed", extra="deepspeed", needed_for="engine.name=deepspeed") from None
    logger.setLevel(logging.WARNING)
    if device.type == "cpu":
        __compatible_ops__["deepspeed_shm_comm"] = False  # gloo does the same without a compiler
    return deepspeed


def check_deepspeed(config: TrainConfig, ranks: Ranks) -> Any:
    """Import DeepSpeed, if it can run this config here.

    Raises:
        ConfigError: If it does not support a setting.
        MissingExtraError: If it is not installed.
        TrainingError: If there is no process group.
    """
    deepspeed_dictionary(config, ranks.world_size, ranks.device.type)
    deepspeed = import_deepspeed(ranks.device)
    if config.engine.offload_optimizer == "nvme":
        check_async_io(config)
    if not dist.is_initialized():
        raise TrainingError(
            "no process group for DeepSpeed", fix="start with: deepspeed --module medcodi train …, or torchrun"
        )
    return deepspeed


def check_async_io(config: TrainConfig) -> None:
    """Refuse a machine that cannot swap to ``engine.nvme_path``; builds nothing but DeepSpeed's one-line probe.

    Raises:
        ConfigError: If the folder cannot be made, or DeepSpeed's async_io op cannot be built.
    """
    from torch.utils.cpp_extension import is_ninja_available

    builders: Any = import_module("deepspeed.ops.op_builder")
    instead = "or engine.offload_optimizer=cpu"
    try:
        swap_folder(config).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"engine.nvme_path {config.engine.nvme_path}: {error.strerror}",
            expected="a folder on a local disk that can be written",
            fix=f"another engine.nvme_path, {instead}",
        ) from error
    missing = (
        [] if builders.AsyncIOBuilder().is_compatible(verbose=False) else ["libaio with its headers, or a C compiler"]
    )
    missing += [] if is_ninja_available() else ["ninja"]
    if missing:
        raise ConfigError(
            f"engine.offload_optimizer nvme: DeepSpeed's async_io op cannot be built here: {' and '.join(missing)} missing",
            expected="what it is built from at first use",
            fix=f"install libaio-dev (libaio-devel), g++ and ninja, {instead}",
        )


# ---- ZeRO-3 ----------------------------------------------------------------------------------------------------------
@contextmanager
def scalars_as_vectors(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Context in which DeepSpeed takes parameters over: it sees scalars as ``[1]``, because it cannot broadcast scalars.

    Gathered, they are scalars again.
    """
    scalars: list[Any] = [parameter for parameter in parameters if parameter.ndim == 0]
    for scalar in scalars:
        scalar.data = scalar.data.reshape(1)
    yield
    for scalar in scalars:
        scalar.ds_shape = torch.Size([])
        if scalar.data.numel():  # small enough to stay whole on every rank
            scalar.data = scalar.data.reshape(())


@contextmanager
def gathering(module: nn.Module) -> Iterator[None]:
    """Context in which weights are gathered also where they are used outside their own module's forward pass."""
    from deepspeed.runtime.zero.parameter_offload import ensure_zero_ordered_dict

    parts: list[Any] = list(module.modules())
    for part in parts:
        ensure_zero_ordered_dict(part)
        part._parameters._in_forward = True
    try:
        yield
    finally:
        for part in parts:
            part._parameters._in_forward = False


@contextmanager
def shares_changed(optimizer: Any) -> Iterator[None]:
    """Context in which shards have changed: weights gathered before it are not used in it, nor those of it afterwards."""
    optimizer.empty_partition_cache()
    try:
        yield
    finally:
        optimizer.empty_partition_cache()


@contextmanager
def group_in_memory(optimizer: Any, group: int, changed: bool) -> Iterator[nn.Parameter]:
    """This rank's shard of a group's weights, the key of its moments; if offloaded, read from disk, and written if changed."""
    swapped = optimizer._swappable_optimizer_subgroup(group)
    if swapped:
        optimizer._optimizer_states_and_gradient_swap_in(group)
    yield optimizer.fp32_partitioned_groups_flat[group]
    if swapped and changed:
        optimizer._optimizer_states_and_gradient_swap_out(group)
    elif swapped:
        optimizer._release_swap_buffers(group)


def shares_of_moments(optimizer: Any, keys: Iterable[str], changed: bool) -> Iterator[tuple[Any, str, Tensor]]:
    """(parameter, name of the moment, this rank's flat shard of it), each in memory until the next one is requested."""
    for group, parameters in enumerate(optimizer.fp16_groups):
        with group_in_memory(optimizer, group, changed) as owner:
            state = optimizer.optimizer.state[owner]
            for parameter in parameters:
                _, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                for key in keys:
                    yield parameter, key, state[key].narrow(0, offset, size)


@torch.no_grad()
def clear_padding(optimizer: Any, parameters: Iterable[Any], rank: int) -> None:
    """Zero the padding of this rank's shards, which DeepSpeed leaves uninitialised."""

    def clear(share: Tensor, parameter: Any) -> None:
        share[max(0, parameter.ds_numel - rank * share.numel()) :] = 0.0

    for parameter in parameters:
        clear(parameter.ds_tensor, parameter)
    for group, members in enumerate(optimizer.fp16_groups):
        with group_in_memory(optimizer, group, changed=True) as owner:
            for parameter in members:
                _, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                clear(owner.narrow(0, offset, size), parameter)


def leave_gradients_in_memory(optimizer: Any) -> None:
    """If moments are on disk, do not write gradients there too.

    DeepSpeed 0.19 keeps a buffer for all of a rank's shards anyway, so that a copy on disk saves nothing; and it reads a shard of
    1 MB or more back wrong if its offset in the group is not a multiple of 1024 bytes.
    """
    if not optimizer.swap_optimizer:
        return
    groups = optimizer.optimizer_swapper.swap_params_info

    def keep(parameter: Any, gradient_offsets: Iterable[int], gradient_tensors: Iterable[Tensor]) -> None:
        groups[parameter.ds_id].unswapped_gradients.update(zip(gradient_offsets, gradient_tensors, strict=True))

    optimizer.optimizer_swapper.swap_out_gradients = keep


def clear_gradients(optimizer: Any) -> None:
    """Zero this rank's shards of the gradients: those of parts that a step does not reach would be the last step's."""
    optimizer.grad_partitions_flat_buffer.zero_()
    if optimizer.offload_optimizer:
        optimizer.norm_for_param_grads.clear()
        for flat in optimizer.fp32_partitioned_groups_flat:
            if flat.grad is not None:
                flat.grad.zero_()
    if optimizer.swap_optimizer:
        for group in optimizer.optimizer_swapper.swap_params_info.values():
            group.unswapped_gradients.clear()


def fill_missing_gradients(optimizer: Any) -> None:
    """If gradients are on disk, zero those that this step did not reach; call it after the backward passes."""
    if not optimizer.swap_optimizer:
        return
    for group, parameters in enumerate(optimizer.fp16_groups):
        if not optimizer._swappable_optimizer_subgroup(group):
            continue
        info = optimizer.optimizer_swapper.swap_params_info[optimizer.fp32_partitioned_groups_flat[group].ds_id]
        for parameter in parameters:
            name = optimizer.get_param_id(parameter)
            if name not in optimizer.norm_for_param_grads:
                _, offset, size = optimizer.grad_position[name]
                info.unswapped_gradients[offset] = torch.zeros(size)
