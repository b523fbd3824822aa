"""The parts of ``benchmarks/gpu.py``: each is a generator of rows, and each row is written as soon as it is there."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Where and at which size a part measures."""

    device: str = "cuda"  # or cpu
    size: str = "full"  # of the networks: full, mid or tiny
    budget: float = 1.0  # seconds for which each figure is measured

    @property
    def on_gpu(self) -> bool:
        """Whether there is a card; otherwise what only a card has is left out."""
        return self.device.startswith("cuda")

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions to measure; a CPU's float32 is of interest, a card's is not."""
        return ("bf16",) if self.on_gpu else ("fp32", "bf16")

    def of_size(self, full: Any, smaller: Any) -> Any:
        """One value at full size, another at the smaller ones."""
        return full if self.size == "full" else smaller


def attempt(row: Row, measure: Callable[[], Row]) -> Row:
    """The row with what was measured, or with the reason why nothing was; a failed attempt's memory is freed."""
    try:
        return row | measure()
    except torch.OutOfMemoryError:
        row = row | {"out_of_memory": True}
    except ModuleNotFoundError as error:
        row = row | {"skipped": f"{error.name} is not installed"}
    except Exception as error:  # a refusal, a kernel that is not there: the next row may still work
        row = row | {"error": f"{type(error).__name__}: {error}"[:500]}
    free_memory()  # not within the except clause: the traceback holds the tensors
    return row


def free_memory() -> None:
    """Return to the card what no tensor uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
