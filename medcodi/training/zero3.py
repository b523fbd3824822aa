"""ZeRO-3: weights lie in shares on all ranks, and DeepSpeed's hooks put them together where a module runs.

Every rank must run the same modules in the same order, for each of them is put together by all. The stages see to it: what
a step runs follows from the config and the step alone, never from which modalities a rank's studies happen to have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def scalars_as_vectors(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """While DeepSpeed takes parameters over, show it those without dimensions as ``[1]``: it cannot send the others.

    Put together they have no dimensions again, so whoever computes with them or saves them sees no difference.
    """
    scalars: list[Any] = [parameter for parameter in parameters if parameter.ndim == 0]
    for scalar in scalars:
        scalar.data = scalar.data.reshape(1)
    yield
    for scalar in scalars:
        scalar.ds_shape = torch.Size([])
        if scalar.data.numel():  # small enough to stay whole
            scalar.data = scalar.data.reshape(())


@contextmanager
def gathering(module: nn.Module) -> Iterator[None]:
    """Weights that are used outside their own module's forward pass are put together too, as in the engine's own pass."""
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
    """The shares were written to: nothing that was put together before is used, nor is it afterwards."""
    optimizer.empty_partition_cache()
    try:
        yield
    finally:
        optimizer.empty_partition_cache()


def clear_gradients(optimizer: Any, offloaded: bool) -> None:
    """Zero this rank's shares of the gradients: those of parts that a step does not reach would stay from the step before."""
    optimizer.grad_partitions_flat_buffer.zero_()
    if offloaded:
        optimizer.norm_for_param_grads.clear()
        for flat in optimizer.fp32_partitioned_groups_flat:
            if flat.grad is not None:
                flat.grad.zero_()
