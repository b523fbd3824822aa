"""Everything worth measuring on one card in at most eight minutes; each part in a process of its own, with its own limit.

    python benchmarks/gpu.py                                  or make bench-gpu
    python benchmarks/gpu.py --parts denoiser,diffuse --out results
    python benchmarks/gpu.py --device cpu --tiny              a dry run of all parts at tiny size, but for what only a card has
    python benchmarks/gpu.py --device cpu --size mid --parts machine,denoiser     the limits of a CPU, and the share reached

A part writes its JSON after every row, so a part that is ended at its limit leaves what it has measured; the next begins. A part
whose packages are missing is skipped, and says so. Nothing is downloaded, and weights are random. Timings on a card are those of
events on its stream, after a warm-up; the peak that utilisation refers to is that of a matrix product of random numbers, measured
beside it. PyTorch's settings (TF32, cudnn.benchmark) are its defaults, and stated. Writes benchmarks/results/gpu/PART.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MARGIN_S = 5.0  # of the whole time, for the last part's end


@dataclass(frozen=True)
class Part:
    """One process: a generator of rows, and the seconds after which it is ended."""

    rows: str  # module and function, imported in that process
    seconds: float


# In the order of their worth: what the whole time does not suffice for are the last ones.
PARTS = {
    "machine": Part("card.machine:measure", 60),
    "denoiser": Part("card.inference:denoiser", 90),
    "diffuse": Part("card.training:diffuse", 110),
    "films": Part("card.inference:films", 90),
    "align": Part("card.training:align", 60),
    "tests": Part("card.tests:measure", 60),
    "demo": Part("card.demo:measure", 60),
    "variants": Part("card.training:variants", 150),
}


# ---- in the process of a part ----------------------------------------------------------------------------------------
def run_part(name: str, device: str, size: str, budget: float, out: Path) -> None:
    """Measure, and write all rows so far after each."""
    from card import Setup

    result: dict[str, Any] = {"part": name, "command": " ".join(sys.argv), "status": "running", "rows": []}
    began = time.perf_counter()
    try:
        for row in rows_of(name, Setup(device, size, budget)):
            result["rows"].append(row)
            write(out / f"{name}.json", result | {"seconds": round(time.perf_counter() - began, 1)})
        result["status"] = "complete"
    except ModuleNotFoundError as error:
        result["status"] = f"skipped: {error.name} is not installed"
    write(out / f"{name}.json", result | {"seconds": round(time.perf_counter() - began, 1)})


def rows_of(name: str, setup: Any) -> Iterator[dict[str, Any]]:
    """The rows of a part, measured when they are iterated."""
    module, _, function = PARTS[name].rows.partition(":")
    yield from getattr(import_module(module), function)(setup)


def write(path: Path, result: dict[str, Any]) -> None:
    """Replace the file whole: a part can be ended at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".writing")
    beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


# ---- in the first process --------------------------------------------------------------------------------------------
def measure(name: str, limit: float, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Run a part in its own process until it is done or its limit is reached; its result as written."""
    path = out / f"{name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", str(HERE / "gpu.py"), "--part", name, "--device", arguments.device]
    command += ["--size", arguments.size, "--budget", str(arguments.budget), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryFile("w+") as log:
        # A session of its own, so that its workers end with it.
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            ended = f"exit status {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            ended = f"ended at its limit of {limit:.3g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        tail = log.read()[-2000:]
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"part": name, "rows": []}
    if result.get("status", "running") == "running":
        result |= {"status": ended, "log": tail}
        write(path, result)
    return result


def cells(row: dict[str, Any]) -> str:
    """A row in one line: of a spread the median."""
    values = {
        key: value["median"] if isinstance(value, dict) and "median" in value else value for key, value in row.items()
    }
    return "  ".join(f"{key}={value}" for key, value in values.items())[:400]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "mid", "tiny"), default="full")
    parser.add_argument("--tiny", action="store_true", help="a dry run: --size tiny, and little time for each figure")
    parser.add_argument("--parts", default=",".join(PARTS), help="names, with commas; by default all")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each figure")
    parser.add_argument("--out", type=Path, help="by default benchmarks/results/gpu, or cpu")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.size, arguments.budget = "tiny", 0.02
    out = arguments.out or HERE / "results" / ("gpu" if arguments.device.startswith("cuda") else arguments.device)
    if arguments.part:
        run_part(arguments.part, arguments.device, arguments.size, arguments.budget, out)
        return 0

    names = arguments.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown part {', '.join(unknown)}; expected {', '.join(PARTS)}")
    if arguments.device.startswith("cuda") and not cuda_is_here():
        print(
            "no GPU is visible to PyTorch. Fix: run it where one is; --device cpu --tiny is a dry run", file=sys.stderr
        )
        return 2
    end = time.monotonic() + 60 * arguments.minutes - MARGIN_S
    results = {}
    for name in names:
        limit = min(PARTS[name].seconds, end - time.monotonic())
        if limit <= 0:
            results[name] = {"part": name, "status": "no time left", "rows": []}
            write(out / f"{name}.json", results[name])
        else:
            results[name] = measure(name, limit, arguments, out)
        print(f"== {name}: {results[name]['status']}, {results[name].get('seconds', 0)} s", flush=True)
        for row in results[name]["rows"]:
            print(f"   {cells(row)}", flush=True)
    failed = [name for name, result in results.items() if "exit status" in result["status"]]
    print(f"written: {out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def cuda_is_here() -> bool:
    """Whether PyTorch sees a card."""
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
