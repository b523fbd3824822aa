"""What a checkpoint costs the training: step-times lost while it is taken and written; and how soon a resumed run steps.

    python benchmarks/checkpoint_stall.py [rounds] [steps between] [batch size]

The images' denoisers of the demo model (stage `diffuse`, 128 x 128, encoded studies) train in this process. Each round
saves once in the background and once in the foreground, in turn, with steps in between. The stall is what the save
blocks, and what the steps that run while it is written take longer than the median step of the same round. On a machine
that others load, seconds on the wall scatter; the processor time that a save takes beside the steps, over that of a step,
is what it can cost at most, were there one core only. Then the run is put together anew from its last checkpoint, as by
--resume latest, and its first step is awaited. Writes benchmarks/results/checkpoint_stall.json.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from measuring import machine, report, spread

from medcodi.config import load
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.distributed import Ranks
from medcodi.model import MedCoDi
from medcodi.training import run_folder
from medcodi.training.checkpoint import CheckpointWriter
from medcodi.training.config import CheckpointConfig, FaultConfig, TrainConfig
from medcodi.training.faults import Watchdog
from medcodi.training.loop import Loop
from medcodi.training.run import Run

ROOT = Path(__file__).resolve().parents[1]
STALL_TARGET, RESUME_TARGET = 1.0, 10.0  # step-times, seconds


def demo_run(folder: Path, batch_size: int) -> TrainConfig:
    """The demo's fourth recipe on a few phantoms of its own, starting from the shipped model."""
    data = folder / "phantoms"
    options = "{num_studies: " + str(2 * batch_size) + "}"
    words = [f"out={data}", "source=phantom", "image_size=128", f"options={options}", "val=0", "test=0"]
    prepare(load(PrepareConfig, ROOT / "configs/data/demo.yaml", words))
    start = MedCoDi.from_pretrained(ROOT / "checkpoints/demo").float()
    start.save_pretrained(folder / "start")
    settings = [
        f"data.path={data}",
        f"init={folder / 'start'}",
        f"out={folder / 'run'}",
        f"cache={folder / 'cache'}",
        f"batch.global_size={batch_size}",
        "tracking.tensorboard=false",
        "checkpoint.every=1",
        "steps=1000000",
        "optimizer.schedule_horizon=1000",
    ]
    return load(TrainConfig, ROOT / "configs/train/demo/5-diffuse-images.yaml", settings)


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and seconds of processor that this process has used in all of its threads."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """The same, since then."""
    now = clocks()
    return now[0] - began[0], now[1] - began[1]


def one_save(loop: Loop, step: int, batches: list, between: int, background: bool) -> dict[str, float]:
    """Steps, a save, steps: what a median step takes, what the save blocks, and what the steps beside the writing lose."""
    loop.writer = CheckpointWriter(
        loop.run.folder.checkpoints, CheckpointConfig(every=1, keep=1, background=background)
    )

    def timed_step() -> tuple[float, float]:
        began = clocks()
        loop.train_step(batches[step % len(batches)])
        return since(began)

    alone = [timed_step() for _ in range(between)]
    median, cpu_median = (statistics.median(column) for column in zip(*alone, strict=True))
    began = clocks()
    loop.save(step)
    blocked, cpu_blocked = since(began)
    beside = [timed_step()]
    while loop.writer.busy:
        beside.append(timed_step())
    loop.writer.finish()
    writing, cpu = since(began)
    lost = max(0.0, sum(seconds - median for seconds, _ in beside))
    return {
        "step_s": median,
        "blocked_s": blocked,
        "steps_until_written": len(beside),
        "written_after_s": writing,
        "stall_steps": (blocked + lost) / median,
        "blocked_steps": blocked / median,
        "step_cpu_s": cpu_median,
        "save_cpu_s": cpu - cpu_median * len(beside),
        "save_cpu_steps": cpu / cpu_median - len(beside),
        "blocked_cpu_steps": cpu_blocked / cpu_median,
    }


def one_resume(config: TrainConfig, watch: Watchdog) -> dict[str, float]:
    """What it takes from the start of `train`, everything imported, until the first step begins and until it is done."""
    began, ranks = clocks(), Ranks()
    with run_folder.opened(config, "latest", ranks) as folder:
        loop = Loop(Run(config, folder, ranks, watch, "latest"), watch)
        first = next(iter(loop.batches()))
        ready, cpu_ready = since(began)
        loop.train_step(first)
        done, cpu_done = since(began)
        loop.observers.log.close()
    return {
        "ready_s": ready,
        "first_step_done_s": done,
        "ready_cpu_s": cpu_ready,
        "first_step_done_cpu_s": cpu_done,
    }


def main() -> None:
    """Train, save in turn in the background and in the foreground, resume; print, and write the JSON."""
    rounds, between, batch_size = (*map(int, sys.argv[1:]), *(5, 3, 32)[len(sys.argv) - 1 :])
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name, Watchdog(Ranks(), FaultConfig()) as watch:
        config = demo_run(Path(name), batch_size)
        with run_folder.opened(config, None, Ranks()) as folder:
            loop = Loop(Run(config, folder, Ranks(), watch, None), watch)
            batches = [step for step, _ in zip(loop.run.batches.iterate(0, 2), range(2), strict=True)]
            for batch in batches:
                loop.train_step(batch)
            taken: dict[str, list[dict[str, float]]] = {"background": [], "foreground": []}
            for number in range(rounds):
                for how, rows in taken.items():
                    rows.append(one_save(loop, number + 1, batches, between, how == "background"))
                loads.append(os.getloadavg()[0])
            size = sum(file.stat().st_size for file in folder.checkpoints.rglob("*") if file.is_file())
            loop.observers.log.close()
            del loop
        resumed = [one_resume(config, watch) for _ in range(rounds)]
        watch.report("done")
    loads.append(os.getloadavg()[0])
    tell(taken, resumed, size, (rounds, between, batch_size), loads)


def tell(
    taken: dict[str, list[dict[str, float]]],
    resumed: list[dict[str, float]],
    size: int,
    words: tuple[int, ...],
    loads: list[float],
) -> None:
    """The table and the JSON."""
    spreads = {how: {key: spread([save[key] for save in saves]) for key in saves[0]} for how, saves in taken.items()}
    resumption = {key: spread([row[key] for row in resumed]) for key in resumed[0]}
    shown = ("step_s", "blocked_s", "stall_steps", "step_cpu_s", "save_cpu_s", "save_cpu_steps")
    rows = [
        [how, *(f"{cells[key]['median']:.3f} ({cells[key]['min']:.3f}-{cells[key]['max']:.3f})" for key in shown)]
        for how, cells in spreads.items()
    ]
    results = {
        "what": "stage diffuse of the demo's image denoisers, batch as given, bf16 autocast, from encoded studies",
        "command": "python benchmarks/checkpoint_stall.py " + " ".join(map(str, words)),
        "machine": machine(),
        "load_average": spread(loads),
        "checkpoint_mib": round(size / 2**20, 1),
        "saves_each": words[0],
        **spreads,
        "stall_target_step_times": STALL_TARGET,
        "stall_met_on_the_wall": spreads["background"]["stall_steps"]["median"] <= STALL_TARGET,
        "stall_met_in_processor_time": spreads["background"]["save_cpu_steps"]["median"] <= STALL_TARGET,
        "resume": resumption,
        "resume_target_seconds": RESUME_TARGET,
        "resume_met_on_the_wall": resumption["ready_s"]["median"] <= RESUME_TARGET,
        "resume_met_in_processor_time": resumption["ready_cpu_s"]["median"] <= RESUME_TARGET,
    }
    report("checkpoint_stall", results, ["save in the", *shown], rows)
    print(f"checkpoint {results['checkpoint_mib']} MiB; load {results['load_average']}; resume {resumption}")


if __name__ == "__main__":
    main()
