"""How well a run uses its machine: what it does of what the device can do at most, memory."""

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
MATRIX = {"cuda": 4096, "cpu": 1024}  # rows and columns of the product that the peak is measured with
SECONDS = 0.3  # that the measurement takes


@lru_cache(maxsize=8)
def matmul_peak(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of a large matrix product, as the best of some: what the device can do at most.

    Measured once a process and precision, with the threads and settings that the run has.
    """
    size = MATRIX.get(device.type, MATRIX["cuda"])
    dtype = DTYPES[precision]
    a, b = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))

    def seconds(repeats: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        _wait(device)
        return (time.perf_counter() - began) / repeats

    with torch.inference_mode():
        once = max(seconds(1), 1e-9)  # warm-up
        once = min(once, max(seconds(1), 1e-9))
        repeats = max(1, min(50, int(SECONDS / 3 / once)))
        best = min(once, *(seconds(repeats) for _ in range(3))) if once < SECONDS else once
    return 2.0 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device) -> dict[str, float]:
    """GiB that this process holds and held at most, on the GPU (as torch's allocator counts) and on the CPU."""
    figures = {}
    if device.type == "cuda":
        figures = {
            "gpu_allocated_gib": torch.cuda.memory_allocated(device) / GIB,
            "gpu_reserved_gib": torch.cuda.memory_reserved(device) / GIB,
            "gpu_peak_gib": torch.cuda.max_memory_allocated(device) / GIB,
        }
    return {**figures, "cpu_gib": psutil.Process().memory_info().rss / GIB, "cpu_peak_gib": _peak_bytes() / GIB}


def _peak_bytes() -> float:
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss begins with what the parent held when it started this process
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
        if line is not None:
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Utilisation:
    """Model FLOPs utilisation (Chowdhery et al., 2022, appendix B): operations that the model needs over those the devices could do.

    Attributes:
        trouble: Why it cannot be told, once that is known.
    """

    def __init__(self, run: TrainConfig, device: torch.device, world_size: int) -> None:
        self.run, self.device, self.world_size = run, device, world_size
        self._began = time.monotonic()
        self._flops = 0.0
        self.trouble = ""

    def figures(self, model: MedCoDi, studies_per_second: float) -> dict[str, float]:
        """``mfu`` and what it is made of, for the log; empty where it is not asked for, or not yet.

        Args:
            model: What is trained.
            studies_per_second: Of all ranks together.
        """
        tracking = self.run.tracking
        if (
            not tracking.mfu
            or self.trouble
            or (not self._flops and time.monotonic() - self._began < tracking.mfu_after)
        ):
            return {}
        try:
            flops = self._flops = self._flops or study_flops(self.run, model.config)
            peak = 1e12 * tracking.peak_tflops if tracking.peak_tflops else matmul_peak(self.device, self.run.precision)
        except (
            RuntimeError,
            NotImplementedError,
        ) as error:  # an operation without a fake, a GPU that is full: no reason to stop
            self.trouble = f"MFU is not told: {type(error).__name__}: {first_line(error)[:200]}"
            return {}
        return {
            "mfu": studies_per_second * flops / (peak * self.world_size),
            "gflops_per_study": flops / 1e9,
            "peak_tflops": peak / 1e12,
        }

    def in_words(self, figures: dict[str, float]) -> str:
        """Where the figures come from, for the screen; empty while there is nothing to say."""
        if not figures:
            return self.trouble
        origin = (
            "tracking.peak_tflops" if self.run.tracking.peak_tflops else f"a {self.run.precision} matrix product here"
        )
        return (
            f"MFU {figures['mfu']:.1%}: {figures['gflops_per_study']:.4g} GFLOP a study, forward and backward, against "
            f"{figures['peak_tflops']:.4g} TFLOP/s of each device ({origin})"
        )
