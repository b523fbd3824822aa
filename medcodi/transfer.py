"""Copies of tensors to a device that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """The same values on a device; on a GPU by way of page-locked memory, so that the host does not wait for the queued work.

    ``Tensor.to`` from ordinary memory waits until the GPU has done all that was launched before. Between two denoisers of a step
    that empties the GPU's queue, and the GPU is idle until the next kernels are launched.
    """
    device = torch.device(device)
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
