"""Does communication cost what the plan of `medcodi train --estimate` says? Two ranks with twice the batch, beside one rank.

    OMP_NUM_THREADS=1 python benchmarks/weak_scaling.py [--steps 30] [--turns 3] [--batch-size 32]

Stage `diffuse` of the demo's image denoisers at 128 x 128, from encoded studies; one thread a rank, gloo. With the same batch a rank,
perfect scaling takes the same time a step on two ranks as on one. The plan adds the bytes that a rank sends (cost.bytes_sent), divided
by the bandwidth; here that is measured by all-reduces of the gradients' size. Two ranks also share caches and memory, so computation is
measured as two single ranks that run side by side, too. Every engine takes turns. Writes benchmarks/results/weak_scaling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.distributed as dist
from checkpoint_stall import demo_run
from measuring import machine, report, spread

from medcodi.config import from_dict, to_dict, to_yaml
from medcodi.training.config import TrainConfig
from medcodi.training.cost import bytes_sent, stage_cost

ROOT = Path(__file__).resolve().parents[1]
RANKS = 2
# Engine -> ZeRO stage, as the plan counts it.
ENGINES = {"plain": 0, "deepspeed zero 1": 1, "deepspeed zero 2": 2, "deepspeed zero 3": 3}


def command(engine: str, ranks: int, port: int) -> list[str]:
    """What starts a training script on ``ranks`` processes under that engine."""
    if engine == "plain":
        return [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", f"--num_accelerators={ranks}"]
    return [*runner, f"--master_port={port}"]


class Runs:
    """Training runs in a folder of their own, each started anew from the same model and cache."""

    def __init__(self, folder: Path, config: TrainConfig, steps: int) -> None:
        self.folder, self.config, self.steps, self.count = folder, config, steps, 0

    def start(self, engine: str, ranks: int) -> tuple[subprocess.Popen[bytes], Path]:
        """Start one run; its log is in the folder."""
        self.count += 1
        out, file = self.folder / f"run-{self.count}", self.folder / f"run-{self.count}.yaml"
        values = to_dict(self.config)
        values.update(out=str(out), steps=self.steps)
        values["tracking"].update(log_every=5, samples_every=0, validate_every=0)
        values["checkpoint"].update(every=10 * self.steps)
        values["batch"]["global_size"] *= ranks
        values["engine"].update(name=engine.split()[0], zero_stage=ENGINES[engine])
        file.write_text(to_yaml(from_dict(TrainConfig, values)))
        words = [*command(engine, ranks, 29700 + self.count), str(ROOT / "launch/train.py"), "--config", str(file)]
        with (self.folder / f"run-{self.count}.log").open("wb") as log:
            return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT), out

    def seconds(self, engine: str, ranks: int, beside: int = 1) -> float:
        """Seconds a step, the median over the log's lines; ``beside`` such runs at once, the mean over them."""
        started = [self.start(engine, ranks) for _ in range(beside)]
        medians = []
        for process, out in started:
            if process.wait():
                raise SystemExit(out.with_suffix(".log").read_text()[-3000:])
            lines = [json.loads(line)["timing"] for line in (out / "log.jsonl").read_text().splitlines()]
            # The first line holds the start.
            medians.append(statistics.median(line["seconds_per_step"] for line in lines[1:]))
        return statistics.fmean(medians)


def measure_ring(numbers: int) -> None:
    """Of one rank: median seconds of an all-reduce of so many float32 numbers, printed by the first."""
    dist.init_process_group("gloo")
    values, seconds = torch.zeros(numbers), []
    for _ in range(20):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        seconds.append(time.perf_counter() - started)
    if dist.get_rank() == 0:
        print(f"seconds {statistics.median(seconds[3:])}")
    dist.destroy_process_group()


def bandwidth(trained: int) -> float:
    """Bytes a second that each of two ranks sends in an all-reduce of the gradients."""
    words = [*command("plain", RANKS, 29699), __file__, "--ring", str(trained)]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    seconds = next(float(line.split()[1]) for line in printed.splitlines() if line.startswith("seconds "))
    return bytes_sent(trained, RANKS, 0) / seconds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="of each rank")
    parser.add_argument("--dry-run", action="store_true", help="write no results")
    parser.add_argument("--ring", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.ring:
        measure_ring(given.ring)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = demo_run(folder, given.batch_size)
        trained, runs = stage_cost(config, device="cpu").trained, Runs(folder, config, given.steps)
        # One run makes the cache, which all others read.
        runs.seconds("plain", 1)
        clock: dict[str, dict[str, list[float]]] = {engine: {} for engine in ENGINES}
        rates = []
        for _ in range(given.turns):
            rates.append(bandwidth(trained))
            for engine, seconds in clock.items():
                for what, ranks, beside in (("alone", 1, 1), ("beside", 1, RANKS), ("two", RANKS, 1)):
                    seconds.setdefault(what, []).append(runs.seconds(engine, ranks, beside))

    rows: list[dict[str, Any]] = []
    cells = []
    rate = statistics.median(rates)
    for engine, seconds in clock.items():
        alone, beside, two = (statistics.median(seconds[what]) for what in ("alone", "beside", "two"))
        sending = bytes_sent(trained, RANKS, ENGINES[engine]) / rate
        measured = {f"seconds_{what}": spread(values) for what, values in seconds.items()}
        ratios = {"efficiency": round(alone / two, 3), "measured_to_predicted": round(two / (beside + sending), 3)}
        rows.append({"engine": engine, **measured, "seconds_sending": round(sending, 4), **ratios})
        times = [f"{each:.3f}" for each in (alone, beside, sending, beside + sending, two)]
        cells.append([engine, *times, *ratios.values()])
    results = {
        "machine": machine(),
        "trained": trained,
        "batch_size": given.batch_size,
        "gb_per_second": spread([each / 1e9 for each in rates]),
        "rows": rows,
    }
    header = ["engine", "alone", "beside another", "sending", "predicted", "two ranks", "efficiency", "÷ predicted"]
    report("weak_scaling", results, header, cells, write=not given.dry_run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
