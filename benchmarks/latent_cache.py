"""Studies a second of stage `diffuse` from the latent cache beside the same stage without it, and the memory of both.

    python benchmarks/latent_cache.py [--repeats 9] [--data FOLDER] [--model FOLDER]

The demo's fourth recipe (both views' denoisers, its batch and precision), one thread, one process: steps are taken in turn, each
with the reading of its batch, and medians of their times are compared. Each of the two also runs alone, in a process of its own
that tells how much memory it held at most. A cache is made first, and its rate is told as well. Without --data a few phantoms
are prepared, without --model the shipped one is taken. Writes benchmarks/results/latent_cache.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring import interleaved, machine, peak_mib, ratio, report
from torch import nn

from medcodi.config import load
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.distributed import Ranks
from medcodi.model import MedCoDi
from medcodi.networks.attention import Attention
from medcodi.training import run_folder
from medcodi.training.config import FaultConfig, TrainConfig
from medcodi.training.faults import Watchdog
from medcodi.training.loop import Loop
from medcodi.training.run import Run

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs/train/demo/5-diffuse-images.yaml"
TARGET, STUDIES = 3.0, 64


def config(work: Path, name: str, data: Path, model: Path, cached: bool) -> TrainConfig:
    """The recipe, with the cache or without it."""
    settings = [
        f"data.path={data}",
        f"data.num_studies={STUDIES}",
        f"init={model}",
        f"out={work / name}",
        f"cache={work / 'cache' if cached else 'null'}",
        "tracking.tensorboard=false",
        "checkpoint.every=0",
        "steps=1000000",
        "optimizer.schedule_horizon=1000",
    ]
    return load(TrainConfig, RECIPE, settings)


class Steps:
    """A run, a step at a time."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.run, self._batches = loop, loop.run, iter(loop.run.batches.iterate(0))

    def __call__(self) -> None:
        """Read the next batch and train on it."""
        self.loop.train_step(next(self._batches))


def begun(work: Path, name: str, data: Path, model: Path, *, cached: bool, watch: Watchdog) -> Iterator[Steps]:
    """The run, ready for its first step."""
    settings = config(work, name, data, model, cached)
    with run_folder.opened(settings, None, Ranks()) as folder:
        yield Steps(Loop(Run(settings, folder, Ranks(), watch, None), watch))


def alone(work: Path, data: Path, model: Path, name: str) -> None:
    """Three steps of one of the two in this process; prints the most memory that it held."""
    with Watchdog(Ranks(), FaultConfig()) as watch:
        for steps in begun(work, f"{name}-alone", data, model, cached=name == "cached", watch=watch):
            before = {part: sum(p.numel() for p in module.parameters()) for part, module in held(steps.run).items()}
            for _ in range(3):
                steps()
            print(json.dumps({"peak_mib": round(peak_mib(), 1), "parameters_held": sum(before.values())}))
        watch.report("done")


def held(run: Run) -> dict[str, nn.Module]:
    """The components in memory."""
    return {name: part for name, part in run.stage.model.components().items() if name not in run.stage.model.pending}


def memory(work: Path, data: Path, model: Path, name: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--alone", name, "--work", str(work)]
    command += ["--data", str(data), "--model", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def prepared(work: Path) -> Path:
    """A few phantoms."""
    words = [f"out={work / 'phantoms'}", "source=phantom", "image_size=128", "val=0", "test=0"]
    options = "options={num_studies: " + str(STUDIES) + "}"
    prepare(load(PrepareConfig, ROOT / "configs/data/demo.yaml", [*words, options]))
    return work / "phantoms"


def start_model(work: Path) -> Path:
    """The shipped model, in float32."""
    return MedCoDi.from_pretrained(ROOT / "checkpoints/demo").float().save_pretrained(work / "start")


def measure(work: Path, data: Path, model: Path, repeats: int) -> dict[str, Any]:
    """Steps in turn: with the cache, with it and every token projected, without it; and both with attention in bfloat16, as before."""
    times: dict[str, Any] = {}
    with Watchdog(Ranks(), FaultConfig()) as watch:
        began = time.perf_counter()
        for cached in begun(work, "cached", data, model, cached=True, watch=watch):
            made = time.perf_counter() - began
            for fresh in begun(work, "fresh", data, model, cached=False, watch=watch):
                layers = [part for part in cached.run.stage.modules() if isinstance(part, Attention)]

                def every_token(cached: Steps = cached, layers: list[Attention] = layers) -> None:
                    for layer in layers:
                        layer.skips_absent = False
                    cached()
                    for layer in layers:
                        layer.skips_absent = True

                calls = {"cached": cached, "fresh": fresh}
                times = interleaved({**calls, "cached, every token projected": every_token}, repeats)
                for steps in calls.values():
                    for part in steps.run.stage.modules():
                        if isinstance(part, Attention):
                            part.backend = "sdpa"
                slow = interleaved(
                    {f"{name}, attention in bf16": steps for name, steps in calls.items()}, max(1, repeats // 3)
                )
                times |= slow
        watch.report("done")
    return {"times": times, "making_and_starting_seconds": round(made, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--alone", choices=("cached", "fresh"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.alone:
        alone(options.work, options.data, options.model, options.alone)
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data, model = options.data or prepared(work), options.model or start_model(work)
        found = measure(work, data, model, options.repeats)
        peaks = {name: memory(work, data, model, name) for name in ("cached", "fresh")}
    tell(found, peaks, options.repeats)


def tell(found: dict[str, Any], peaks: dict[str, Any], repeats: int) -> None:
    """The table and the JSON."""
    times, batch = found["times"], load(TrainConfig, RECIPE).batch.global_size
    rows = []
    for name, row in times.items():
        seconds = row["seconds"]
        row["studies_per_second"] = round(batch / seconds["median"], 2)
        peak = peaks.get(name, {})
        rows.append(
            [name, seconds["median"], f"{seconds['min']}-{seconds['max']}", row["cpu_seconds"]["median"]]
            + [row["studies_per_second"], peak.get("peak_mib", ""), f"{peak['parameters_held']:,}" if peak else ""]
        )
    speedup = ratio(times, "fresh", "cached")
    cpu = {name: times[name]["cpu_seconds"]["median"] for name in ("fresh", "cached")}
    results = {
        "what": f"stage diffuse of the demo's image denoisers, {batch} studies a step, {load(TrainConfig, RECIPE).precision}, reading included",
        "command": f"python benchmarks/latent_cache.py --repeats {repeats}",
        "machine": {**machine(), "load_average_at_the_end": round(os.getloadavg()[0], 1)},
        "steps": times,
        "speedup": speedup,
        "speedup_of_processor_time": round(cpu["fresh"] / cpu["cached"], 3),
        "target": TARGET,
        "memory": peaks,
        "making_and_starting_seconds": found["making_and_starting_seconds"],
        "studies_in_the_cache": STUDIES,
    }
    header = ["steps", "s", "least-greatest", "CPU s", "studies/s", "peak MiB", "parameters held"]
    report("latent_cache", results, header, rows)
    print(f"speed-up {speedup} (of processor time {results['speedup_of_processor_time']}); target {TARGET}")


if __name__ == "__main__":
    main()
