"""What the benchmarks share: the machine, interleaved timing, weights without a model, tables and results."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

RESULTS = Path(__file__).parents[1] / "results"


def machine(device: str = "cpu") -> dict[str, Any]:
    """What it ran on."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cpu_features": [name for name in ("avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16") if name in flags],
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {name: round(value, 4) for name, value in _spread(values).items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[str, dict[str, Any]]:
    """Time each call ``repeats`` times, taking turns, after one call of each that does not count.

    Returns:
        Name -> wall-clock seconds and, on a CPU, seconds of processor time over all threads: each a spread.
    """
    clock: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            wait(device)
            started, used = time.perf_counter(), time.process_time()
            call()
            wait(device)
            if turn:
                clock[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
    on_cpu = not device.startswith("cuda")
    return {
        name: {
            "seconds": spread(clock[name]),
            **({"cpu_seconds": spread(cpu[name])} if on_cpu else {}),
            "runs": repeats,
        }
        for name in calls
    }


def seconds_per_call(call: Callable[[], Any], device: str, *, budget: float = 1.0, rounds: int = 5) -> dict[str, float]:
    """Seconds of a call, a spread over ``rounds``; each takes as many calls in a row as fit into its share of ``budget`` seconds.

    On a GPU by events on its stream, so that what the host does beside it counts only where the GPU waits for it.
    """
    on_gpu = device.startswith("cuda")
    # Warm up: lazy libraries, choice of kernels, the allocator.
    began, warm_ups = time.perf_counter(), 0
    while warm_ups < 1 or (warm_ups < 3 and time.perf_counter() - began < budget):
        began = time.perf_counter()
        call()
        wait(device)
        warm_ups += 1
    num_calls = max(1, min(1000, int(budget / rounds / max(time.perf_counter() - began, 1e-9))))

    seconds = []
    for _ in range(rounds):
        if on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
        began = time.perf_counter()
        for _ in range(num_calls):
            call()
        if on_gpu:
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1000 / num_calls)
        else:
            seconds.append((time.perf_counter() - began) / num_calls)
    return {name: float(f"{value:.4g}") for name, value in _spread(seconds).items()}


def ratio(times: Mapping[str, Mapping[str, Any]], ours: str, peer: str) -> float:
    """Median time of ours over the peer's."""
    return round(times[ours]["seconds"]["median"] / times[peer]["seconds"]["median"], 3)


def wait(device: str) -> None:
    """Until the GPU has done what it was asked."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@torch.inference_mode(False)  # weights outlive the inference that they may be made in
def fill(network: nn.Module, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    """Give a network made on the meta device random weights that keep activations near unit size; for inference."""
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(1 << 20, generator=generator)
    for part in network.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(_values(part, name, parameter, block).to(device, dtype), False))
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.device.type != "meta":
                part._buffers[name] = buffer.to(device)
    return network.eval()


def _values(part: nn.Module, name: str, parameter: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    if parameter.dim() < 2:
        normed = isinstance(part, (nn.GroupNorm, nn.LayerNorm)) and name == "weight"
        return torch.full(parameter.shape, 1.0 if normed else 0.01)
    count = parameter.numel()
    values = block.repeat(-(-count // block.numel()))[:count].view(parameter.shape)
    return values * (0.7 / parameter[0].numel() ** 0.5)


def peak_mib() -> float:
    """Most memory this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss begins with what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def report(
    name: str, results: Mapping[str, Any], header: Sequence[str], rows: Sequence[Sequence[Any]], *, write: bool = True
) -> None:
    """Print a table and write the results as JSON."""
    cells = [list(map(str, row)) for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    print("\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]))
    if not write:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written: benchmarks/results/{name}.json")
