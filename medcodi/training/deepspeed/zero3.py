"""ZeRO-3: weights are partitioned over all ranks, and DeepSpeed's hooks gather them where a module runs.

Every rank must run the same modules in the same order, because all ranks take part in gathering each. The stages ensure it:
what a step runs follows from the config and the step alone, not from the modalities that a rank's studies have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


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
