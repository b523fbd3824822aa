"""How fast the phantom is, and that it keeps nothing: studies per second and core, memory over 200 studies.

Run with ``OMP_NUM_THREADS=1 python benchmarks/phantom.py``; writes ``benchmarks/results/phantom.json``. ``--version 2`` measures
version 2, ``--image-size 256`` another size (give ``--out`` another file). Rates are per
second of this process's CPU time (what one core does when it has nothing else to do) and per second of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before numpy is imported
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
import scipy  # noqa: E402

from medcodi.data.sources.phantom import PhantomDataset, phantom_study  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "phantom.json"
GOALS = {(1, 128): 8.0, (2, 128): 36.0, (2, 256): 10.0}  # (version, pixels a side) -> studies per second and core


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    middle, least, greatest = statistics.median(values), min(values), max(values)
    return {"median": round(middle, 2), "min": round(least, 2), "max": round(greatest, 2)}


def peak_mib() -> float:
    """Most memory this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def measure(version: int, size: int, num_studies: int, repeats: int) -> dict[str, Any]:
    """Rates of ``repeats`` runs of ``num_studies`` studies, and peak memory after 20 and after 200 studies."""
    warm, measured, rest = (PhantomDataset(10**6, seed=seed, image_size=size, version=version) for seed in (1, 0, 2))
    for index in range(20):  # warm-up: imports, caches, the allocator
        warm[index]
    after_20 = peak_mib()
    by_cpu, by_clock = [], []
    for repeat in range(repeats):
        cpu, clock = time.process_time(), time.perf_counter()
        for index in range(num_studies):
            measured[repeat * num_studies + index]
        by_cpu.append(num_studies / (time.process_time() - cpu))
        by_clock.append(num_studies / (time.perf_counter() - clock))
    for index in range(max(0, 180 - repeats * num_studies)):
        rest[index]
    after_all = peak_mib()
    return {
        "version": version,
        "image_size": size,
        "num_studies": num_studies,
        "repeats": repeats,
        "studies_per_cpu_second": spread(by_cpu),
        "studies_per_second": spread(by_clock),
        "goal_studies_per_second_and_core": GOALS.get((version, size)),
        "peak_memory_mib": {
            "after_20_studies": round(after_20, 1),
            f"after_{20 + max(180, repeats * num_studies)}_studies": round(after_all, 1),
            "growth": round(after_all - after_20, 1),
        },
    }


def render(worker: int, number: int, side: int) -> None:
    """Render studies of a worker's own."""
    for index in range(number):
        phantom_study(0, 1_000_000 * (worker + 1) + index, side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--num-studies", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = {
        "command": f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} python benchmarks/phantom.py"
        f" --version {arguments.version} --image-size {arguments.image_size} --num-studies {arguments.num_studies} --repeats {arguments.repeats}",
        "machine": machine(),
        **measure(arguments.version, arguments.image_size, arguments.num_studies, arguments.repeats),
    }
    text = json.dumps(results, indent=2)
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
