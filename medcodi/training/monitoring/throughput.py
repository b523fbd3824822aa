"""How well a run uses its machine: memory, and model FLOPs utilisation."""

from __future__ import annotations

import resource
import sys
import time
from functools import lru_cache
from pathlib import Path

import psutil
import torch

from medcodi.errors import first_line
from medcodi.model import MedCoDi
from medcodi.training.config import TrainConfig
from medcodi.training.cost import study_flops
from medcodi.training.execution import DTYPES

GIB = 2**30
MATRIX_SIZE = {"cuda": 4096, "cpu": 1024}  # of the product that the peak is measured with
MEASUREMENT_S = 0.3


@lru_cache(maxsize=8)
def matmul_peak(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of a large matrix product, the best of a few: the device's peak.

    Measured once per process and precision, with the threads and settings of the run.
    """
    size = MATRIX_SIZE.get(device.type, MATRIX_SIZE["cuda"])
    dtype = DTYPES[precision]
    a, b = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))

    def seconds(repeats: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        _wait(device)  # kernels run asynchronously
        return (time.perf_counter() - began) / repeats

    with torch.inference_mode():
        # The first call warms up; then as many repeats as fit into the time.
        once = max(seconds(1), 1e-9)
        once = min(once, max(seconds(1), 1e-9))
        repeats = max(1, min(50, int(MEASUREMENT_S / 3 / once)))
        best = min(once, *(seconds(repeats) for _ in range(3))) if once < MEASUREMENT_S else once
    return 2.0 * size**3 / best  # a product and a sum per term


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device) -> dict[str, float]:
    """GiB that this process uses now and used at most, on the GPU (as torch's allocator counts) and on the CPU."""
    values = {}
    if device.type == "cuda":
        values = {
            "gpu_allocated_gib": torch.cuda.memory_allocated(device) / GIB,
            "gpu_reserved_gib": torch.cuda.memory_reserved(device) / GIB,
            "gpu_peak_gib": torch.cuda.max_memory_allocated(device) / GIB,
        }
    return {**values, "cpu_gib": psutil.Process().memory_info().rss / GIB, "cpu_peak_gib": _peak_bytes() / GIB}


def _peak_bytes() -> float:
    # Linux: ru_maxrss starts with what the parent process used, so it is read from /proc.
    status = Path("/proc/self/status")
    if status.is_file():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
        if line is not None:
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


class Utilisation:
    """Model FLOPs utilisation (MFU; Chowdhery et al., 2022, appendix B): operations of the model over the devices' peak."""

    def __init__(self, config: TrainConfig, device: torch.device, world_size: int) -> None:
        self.config, self.device, self.world_size = config, device, world_size
        self._began = time.monotonic()
        self._flops = 0.0
        self.problem = ""  # why it cannot be measured; empty: it can

    def measure(self, model: MedCoDi, studies_per_second: float) -> dict[str, float]:
        """``mfu`` at a rate of all ranks, and what it is computed from; empty where it is off, or not due yet."""
        tracking = self.config.tracking
        is_early = not self._flops and time.monotonic() - self._began < tracking.mfu_after
        if not tracking.mfu or self.problem or is_early:
            return {}
        try:
            flops = self._flops = self._flops or study_flops(self.config, model.config)
            peak = (
                1e12 * tracking.peak_tflops if tracking.peak_tflops else matmul_peak(self.device, self.config.precision)
            )
        except (
            RuntimeError,
            NotImplementedError,
        ) as error:  # an operation without a fake, a full GPU: no reason to stop
            self.problem = f"MFU is not logged: {type(error).__name__}: {first_line(error)[:200]}"
            return {}
        return {
            "mfu": studies_per_second * flops / (peak * self.world_size),
            "gflops_per_study": flops / 1e9,
            "peak_tflops": peak / 1e12,
        }

    def explain(self, values: dict[str, float]) -> str:
        """Inputs of the utilisation, for the screen; empty before it is computed."""
        if not values:
            return self.problem
        config = self.config
        origin = "tracking.peak_tflops" if config.tracking.peak_tflops else f"a {config.precision} matrix product here"
        return (
            f"MFU {values['mfu']:.1%}: {values['gflops_per_study']:.4g} GFLOP per study, forward and backward, against "
            f"{values['peak_tflops']:.4g} TFLOP/s of each device ({origin})"
        )
