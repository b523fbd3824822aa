"""What a checkpoint costs the training: step-times lost while it is taken and written; and how soon a resumed run steps.

    python benchmarks/checkpoint_stall.py [rounds] [steps between] [batch size]

The images' denoisers of the demo model (stage `diffuse`, 128 x 128, encoded studies) train in this process. Each round
saves once in the background and once in the foreground, in turn, with steps in between. A step that runs while a
checkpoint is written counts with what it takes longer than the median step of the same round. Then the run is put
together anew from its last checkpoint, as by --resume latest, and its first step is awaited. Writes
benchmarks/results/checkpoint_stall.json.
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
from medcodi.data.prepare import PrepareConfig, prepare
from medcodi.model import MedCoDi
from medcodi.training import run_folder
from medcodi.training.config import CheckpointConfig, FaultConfig, TrainConfig
from medcodi.training.loop import Run
from medcodi.training.processes import Processes
from medcodi.training.saving import CheckpointWriter
from medcodi.training.watch import Watch

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
    return load(TrainConfig, ROOT / "configs/train/demo/4-diffuse-images.yaml", settings)


def one_save(run: Run, step: int, batches: list, between: int, background: bool) -> dict[str, float]:
    """Steps, a save, steps: seconds of a median step, blocked by the save, and lost by the steps beside the writing."""
    run.writer = CheckpointWriter(run.folder.checkpoints, CheckpointConfig(every=1, keep=1, background=background))

    def timed_step() -> float:
        began = time.perf_counter()
        run.train_step(batches[step % len(batches)])
        return time.perf_counter() - began

    alone = [timed_step() for _ in range(between)]
    median = statistics.median(alone)
    began = time.perf_counter()
    run.save(step)
    blocked = time.perf_counter() - began
    beside = []
    while run.writer.busy:
        beside.append(timed_step() - median)
    writing = time.perf_counter() - began
    run.writer.finish()
    lost = max(0.0, sum(beside))
    return {"step": median, "blocked": blocked, "lost": lost, "writing": writing, "stall": (blocked + lost) / median}


def main() -> None:
    rounds, between, batch_size = (*map(int, sys.argv[1:]), *(5, 5, 32)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as name, Watch(Processes(), FaultConfig()) as watch:
        config = demo_run(Path(name), batch_size)
        processes = Processes()
        with run_folder.opened(config, None, processes) as folder:
            run = Run(config, folder, processes, watch, None)
            batches = [step for step, _ in zip(run._batches(run.dataset).iterate(0, 2), range(2), strict=True)]
            for batch in batches:
                run.train_step(batch)
            taken: dict[str, list[dict[str, float]]] = {"background": [], "foreground": []}
            for number in range(rounds):
                for how, rows in taken.items():
                    rows.append(one_save(run, number + 1, batches, between, how == "background"))
            size = sum(file.stat().st_size for file in folder.checkpoints.rglob("*") if file.is_file())
            run.figures.log.close()
            del run
            resumed = []
            for _ in range(max(1, rounds // 2)):
                began = time.perf_counter()
                again = Run(config, folder, processes, watch, "latest")
                again.train_step(next(iter(again._arriving())))
                resumed.append(time.perf_counter() - began)
                again.figures.log.close()
        watch.at("done")
    tell(taken, resumed, size, (rounds, between, batch_size))


def tell(taken: dict[str, list[dict[str, float]]], resumed: list[float], size: int, words: tuple[int, ...]) -> None:
    """The table and the JSON."""
    rows = []
    for how, saves in taken.items():
        cells = {key: spread([save[key] for save in saves]) for key in saves[0]}
        stall = cells["stall"]
        rows.append(
            [how, cells["step"]["median"], cells["blocked"]["median"], cells["writing"]["median"], stall["median"]]
            + [f"{stall['min']}-{stall['max']}"]
        )
    results = {
        "what": "stage diffuse of the demo's image denoisers, batch as told, bf16 autocast, from encoded studies",
        "command": "python benchmarks/checkpoint_stall.py " + " ".join(map(str, words)),
        "machine": {**machine(), "load_average_at_the_end": round(os.getloadavg()[0], 1)},
        "checkpoint_mib": round(size / 2**20, 1),
        "saves_each": words[0],
        **{how: {key: spread([save[key] for save in saves]) for key in saves[0]} for how, saves in taken.items()},
        "stall_target_step_times": STALL_TARGET,
        "resume_to_first_step_seconds": spread(resumed),
        "resume_target_seconds": RESUME_TARGET,
    }
    header = ["save in the", "step s", "blocked s", "written after s", "stall, steps", "least-greatest"]
    report("checkpoint_stall", results, header, rows)
    print(
        f"checkpoint {results['checkpoint_mib']} MiB; resume to the first step: {results['resume_to_first_step_seconds']} s"
    )


if __name__ == "__main__":
    main()
