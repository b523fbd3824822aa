"""Modes under which forward passes of fake tensors are counted: operations, largest results, and a GPU's autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count


class Norms(TorchFunctionMode):
    """``wide``: computes norms in float32, as autocast does on a GPU, but not on the CPU, where operations are counted."""

    def __init__(self, *, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.wide and func in (F.group_norm, F.layer_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class LargestResult(TorchDispatchMode):
    """Finds the largest result of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                size = tensor.numel() * tensor.element_size()
                self.bytes = max(
                    self.bytes, min(size, tensor.untyped_storage().nbytes())
                )  # an expanded view is no larger than its storage
        return result


# The CPU's attention kernels, which torch's registry lacks: fake tensors are on the CPU.
_CPU_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda gradient, q, k, v, *_, **__: (
        sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)
    ),
}


class Operations(TorchDispatchMode):
    """Adds up the floating-point operations of matrix products, convolutions and attention, in both passes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket  # pyright: ignore[reportFunctionMemberAccess]
        count = _CPU_ATTENTION.get(packet) or flop_registry.get(packet)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result
