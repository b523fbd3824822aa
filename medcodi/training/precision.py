"""At which precision a run computes: weights are float32, products are cast."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> Any:
    """Context in which a run of this precision (a key of ``DTYPES``) computes on a device."""
    dtype = DTYPES[precision]
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
