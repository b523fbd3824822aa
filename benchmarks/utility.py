"""Training of a utility study beside the bare network: studies per second of forward and backward alone, and of the whole step.

Run with ``OMP_NUM_THREADS=1 python benchmarks/utility.py``; writes ``benchmarks/results/utility.json``. The whole step draws a batch,
augments it in memory, clips gradients and updates the weights; goal: at least 0.8 of the bare rate, in the same run.
"""

from __future__ import annotations

import argparse
import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before torch is imported
    os.environ.setdefault(name, "1")

import torch  # noqa: E402
from measuring import interleaved, machine, ratio, report  # noqa: E402

from medcodi.data.loading import DataConfig  # noqa: E402
from medcodi.trust.utility.arms import Selection  # noqa: E402
from medcodi.trust.utility.config import ArmConfig, TrainingConfig, UtilityConfig  # noqa: E402
from medcodi.trust.utility.cost import random_pool  # noqa: E402
from medcodi.trust.utility.tasks import finding_loss, task_of  # noqa: E402
from medcodi.trust.utility.training import train  # noqa: E402

FINDINGS = ("Cardiomegaly", "Edema", "Consolidation", "Pneumothorax", "Pleural Effusion", "Lung Lesion")
GOAL = 0.8


def measure(size: int, steps: int, repeats: int) -> dict[str, object]:
    """Both rates for films of one size."""
    data = DataConfig(source="phantom", num_studies=1, image_size=size)  # not opened: the studies are noise
    training = TrainingConfig(num_steps=steps, num_checks=1, warmup_steps=1)
    config = UtilityConfig(train=data, validation=data, test=data, arms={"all": ArmConfig()}, training=training)
    pool = random_pool(256, 1, size, len(FINDINGS))
    selection = Selection(pool=pool, num_real=256, num_cut=0, prompt_patients=0, patients=frozenset(pool.ids))
    task = task_of(config, size, FINDINGS)
    # The bare network: the same batch again and again, forward and backward, no update.
    network = task.build().to(memory_format=torch.channels_last).train()
    films = torch.rand(training.batch_size, 1, size, size).contiguous(memory_format=torch.channels_last)
    views, weights = torch.zeros(training.batch_size, dtype=torch.long), torch.ones(len(FINDINGS))

    def bare() -> None:
        for _ in range(steps):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(films, views)
            network.zero_grad(set_to_none=True)
            finding_loss(logits, pool.truth[: training.batch_size], weights).backward()

    few = pool.take(range(2))
    times = interleaved({"bare": bare, "whole": lambda: train(task, ArmConfig(), selection, few, config, 0)}, repeats)
    studies = steps * training.batch_size
    rates = {name: round(studies / row["cpu_seconds"]["median"], 1) for name, row in times.items()}
    return {
        "image_size": size,
        "studies_per_cpu_second": rates,
        "of_the_bare_rate": round(rates["whole"] / rates["bare"], 3),
        "of_the_bare_rate_by_the_clock": round(1 / ratio(times, "whole", "bare"), 3),
        "goal": GOAL,
        "times": times,
    }


def main() -> None:
    """Measure films of 64 and 128 pixels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [measure(size, arguments.steps, arguments.repeats) for size in (64, 128)]
    rows = [
        [run["image_size"], *run["studies_per_cpu_second"].values(), run["of_the_bare_rate"], run["goal"]]  # type: ignore[attr-defined]
        for run in runs
    ]
    header = ["pixels", "bare, studies/s of CPU", "whole step", "share", "goal"]
    report("utility", {"machine": machine(), "runs": runs}, header, rows)


if __name__ == "__main__":
    main()
