"""What the training loop costs beside the bare forward pass, backward pass and optimiser step; and what ranks wait for data.

    python benchmarks/loop_overhead.py [steps] [batch size] [device]

Stage `diffuse` of the demo's image denoisers at 128 x 128, from encoded studies, as in its recipe. The whole loop runs in this
process: reading the batch, keyed draws, gradient norm and clipping, moving average, figures by modality, prompts and part,
utilisation, memory, signs of trouble, log.jsonl, TensorBoard, watch over ranks, signals. Before each of its steps a bare
one is timed on the same stage and optimiser, on the clock and, on a CPU, in processor seconds of all threads: these do not see
what else the machine does, and the overhead is told in both, with and without what the recipe asks for beside the bare step
(gradient norm, moving average; clipping is part of the optimiser's pass). A step that writes a line costs more: it is logged every 5 steps
here, and its surplus counts once in 20. Then two ranks train by torchrun, and what they waited for data is read from log.jsonl.
Writes benchmarks/results/loop_overhead.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from checkpoint_stall import demo_run
from measuring import machine, report, spread, wait

from medcodi.config import from_dict, to_dict, to_yaml
from medcodi.data.batches import StepBatches
from medcodi.distributed import Ranks
from medcodi.randomness import StepRandomness
from medcodi.training import run_folder
from medcodi.training.config import TrainConfig
from medcodi.training.faults import Watchdog
from medcodi.training.loop import Interrupts, Loop
from medcodi.training.run import Run

ROOT = Path(__file__).resolve().parents[1]
OVERHEAD_TARGET, WAIT_TARGET = 0.02, 0.02
LOGGED, COUNTED = 5, 20  # steps between two lines: here, and in a run
WARM_UP = 2  # steps that do not count
Moment = tuple[float, float]  # of the clock, and of the processor


def now(device: str) -> Moment:
    wait(device)
    return time.perf_counter(), time.process_time()


def since(began: Moment, device: str) -> Moment:
    clock, processor = now(device)
    return clock - began[0], processor - began[1]


class Measured(Loop):
    """A run that takes a bare step before each of its own, and notes how long both took."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.bare: list[Moment] = []
        self.recipe: list[Moment] = []
        self.looped: list[Moment] = []

    def batches(self) -> Iterator[StepBatches]:
        """The loop's batches, each after a bare step on it."""
        batches, device = super().batches(), self.run.ranks.device.type
        while True:
            began = now(device)
            try:
                step_batches = next(batches)
            except StopIteration:
                return
            reading = since(began, device)
            self.bare.append(self._bare_step(step_batches))
            began = now(device)
            yield step_batches
            rest = since(began, device)
            self.looped.append((reading[0] + rest[0], reading[1] + rest[1]))

    def _bare_step(self, step_batches: StepBatches) -> Moment:
        """What any loop must do: the stage's loss, its gradients, the optimiser.

        Timed apart is what this recipe asks for beside that: the gradient's norm, the moving average.
        """
        engine: Any = self.run.engine
        batch = step_batches.micro[0].to(self.run.ranks.device)
        draw = StepRandomness(seed=self.run.config.seed, step=step_batches.step, samples=batch.samples)
        began = now(self.run.ranks.device.type)
        with engine.autocast():
            loss = self.run.stage(batch, draw).loss
        loss.backward()
        engine._optimizer.step()
        bare = since(began, self.run.ranks.device.type)
        began = now(self.run.ranks.device.type)
        parameters = [p for p in self.run.stage.parameters() if p.grad is not None]
        torch.nn.utils.get_total_norm([p.grad for p in parameters])  # clipping is part of the optimiser's pass
        self.run.ema.update(self.run.num_updates)
        self.recipe.append(since(began, self.run.ranks.device.type))
        began = now(self.run.ranks.device.type)
        engine._optimizer.zero_grad(set_to_none=True)
        rest = since(began, self.run.ranks.device.type)
        return bare[0] + rest[0], bare[1] + rest[1]


def overhead(run: Measured, which: int) -> dict[str, Any]:
    """What the loop adds to a bare step, as a share of it, by the clock (0) or the processor (1)."""
    bare, looped = ([moment[which] for moment in moments] for moments in (run.bare, run.looped))
    places = range(WARM_UP, len(looped))
    logged = [place for place in places if (place + 1) % LOGGED == 0]
    plain = [place for place in places if place not in logged]
    surplus = {
        place: looped[place] - bare[place] for place in places
    }  # of neighbours in time, so that load cancels out
    step = statistics.median(bare[place] for place in places)
    ordinary = statistics.median(surplus[place] for place in plain)
    writing = statistics.median(surplus[place] for place in logged) - ordinary
    recipe = statistics.median(run.recipe[place][which] for place in places)
    return {
        "bare_step_seconds": spread([bare[place] for place in places]),
        "loop_step_seconds": spread([looped[place] for place in places]),
        "surplus_seconds": spread([surplus[place] for place in plain]),
        "surplus_of_a_logged_step_seconds": spread([surplus[place] for place in logged]),
        "norm_clipping_and_average_seconds": spread([run.recipe[place][which] for place in places]),
        "overhead": round((ordinary + writing / COUNTED) / step, 4),
        "overhead_beyond_norm_clipping_and_average": round(
            (ordinary - recipe + writing / COUNTED) / (step + recipe), 4
        ),
    }


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    return from_dict(TrainConfig, {**to_dict(config), **values})


def measure_loop(config: TrainConfig, steps: int, device: torch.device) -> Measured:
    tracking = {
        **to_dict(config.tracking),
        "log_every": LOGGED,
        "tensorboard": True,
        "mfu_after": 0.0,
        "samples_every": 0,
    }
    config = changed(config, tracking=tracking, steps=steps, checkpoint={"every": 0})
    ranks = Ranks(device=device)
    with (
        Watchdog(ranks, config.faults) as watch,
        run_folder.opened(config, None, ranks) as folder,
        Interrupts(None) as interrupts,
    ):
        loop = Measured(Run(config, folder, ranks, watch, None), watch)
        loop.train(interrupts)
    return loop


def two_ranks(config: TrainConfig, folder: Path, steps: int) -> list[float]:
    """Share of each logged window that the slower of two ranks waited for data; the first window is the start."""
    tracking = {**to_dict(config.tracking), "log_every": 4, "tensorboard": True, "samples_every": 0, "mfu": False}
    config = changed(config, tracking=tracking, steps=steps, checkpoint={"every": 0}, out=str(folder / "two"))
    recipe = folder / "two.yaml"
    recipe.write_text(to_yaml(config), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29655"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [*command, str(ROOT / "launch/train.py"), "--config", str(recipe)]
    subprocess.run(words, check=True, env=environment, cwd=ROOT)
    lines = [json.loads(line) for line in (folder / "two" / "log.jsonl").read_text().splitlines()]
    return [line["timing"]["data_wait"] for line in lines if "timing" in line][1:]


def main() -> None:
    steps, batch_size = (*map(int, sys.argv[1:3]), *(30, 32)[len(sys.argv[1:3]) :])
    device = torch.device(sys.argv[3] if len(sys.argv) > 3 else "cpu")
    with tempfile.TemporaryDirectory() as name:
        config = demo_run(Path(name), batch_size)
        run = measure_loop(config, steps, device)
        waits = two_ranks(config, Path(name), 16) if device.type == "cpu" else []
    found = {"clock": overhead(run, 0), **({"processor": overhead(run, 1)} if device.type == "cpu" else {})}
    results = {
        "what": "stage diffuse of the demo's image denoisers, 128 x 128, bf16 autocast, from encoded studies, batch as given",
        "command": f"python benchmarks/loop_overhead.py {steps} {batch_size} {device}",
        "machine": {**machine(device.type), "load_average_at_the_end": round(os.getloadavg()[0], 1)},
        "steps": len(run.looped) - WARM_UP,
        **found,
        "overhead_target": OVERHEAD_TARGET,
        "data_wait_of_two_ranks": spread(waits) if waits else None,
        "data_wait_windows": len(waits),
        "data_wait_target": WAIT_TARGET,
    }
    waited = spread(waits)["median"] if waits else "-"
    shown = (
        "bare_step_seconds",
        "norm_clipping_and_average_seconds",
        "surplus_seconds",
        "surplus_of_a_logged_step_seconds",
    )
    rows = [
        [by, *(cells[key]["median"] for key in shown), f"{cells['overhead']:.2%}"]
        + [f"{cells['overhead_beyond_norm_clipping_and_average']:.2%}", OVERHEAD_TARGET, waited, WAIT_TARGET]
        for by, cells in found.items()
    ]
    header = [
        "by the",
        "bare step s",
        "norm, clip, EMA s",
        "loop adds s",
        "with a line s",
        "overhead",
        "beyond those",
        "target",
        "data wait",
        "target",
    ]
    report("loop_overhead" if device.type == "cpu" else f"loop_overhead_{device.type}", results, header, rows)


if __name__ == "__main__":
    main()
