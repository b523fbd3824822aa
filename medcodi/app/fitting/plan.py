"""How a fit trains: the model's size, chosen by data and machine, and the config of each stage within the time that is given."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medcodi.app.fitting.inputs import FitData
from medcodi.config import load
from medcodi.errors import TrainingError, one_of
from medcodi.recipes import find_recipe

if TYPE_CHECKING:
    from medcodi.training.config import TrainConfig

UNLIMITED = 1_000_000  # steps of a stage that its time ends
STAGES = ("autoencode", "align", "diffuse", "join")
# Share of the time that each stage gets; the rest is for preparation, start-up and evaluation.
SHARES = {"autoencode": 0.30, "align": 0.10, "diffuse": 0.30, "join": 0.10}


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of model that one device trains, and what it takes."""

    model: str  # recipe of the model
    stages: dict[str, str]  # stage -> its recipe
    image_size: int  # that raw studies are prepared at
    least_studies: int  # training studies from which it is chosen
    minutes: float | None  # time of the whole fit on a CPU, and on a GPU; None: the recipes' own steps
    minutes_gpu: float | None


SIZES = {
    "tiny": Size(
        model="models/tiny",
        stages={stage: f"train/tiny/{stage}" for stage in STAGES},
        image_size=64,
        least_studies=0,
        minutes=5.0,
        minutes_gpu=5.0,
    ),
    "demo": Size(
        model="models/demo",
        stages={stage: f"train/{stage}" for stage in STAGES},
        image_size=128,
        least_studies=500,
        minutes=480.0,
        minutes_gpu=None,
    ),
}


def gpu_gib() -> float:
    """Memory of the first GPU in GiB; 0 without one."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0


def choose_size(num_studies: int) -> tuple[str, str]:
    """The largest size that the data suffice for, and why in words."""
    chosen = [name for name, row in SIZES.items() if num_studies >= row.least_studies][-1]
    larger = list(SIZES)[list(SIZES).index(chosen) + 1 :]
    above = f"; {larger[0]} is chosen from {SIZES[larger[0]].least_studies:,}" if larger else ""
    return chosen, f"for {num_studies:,} training studies{above}"


def default_minutes(size: str, gib: float) -> tuple[float | None, str]:
    """Time of a fit on this machine, and why in words.

    Args:
        size: A row of :data:`SIZES`.
        gib: Memory of the GPU in GiB; 0: there is none.
    """
    if gib:
        return SIZES[size].minutes_gpu, f"on a GPU of {gib:.0f} GiB"
    return SIZES[size].minutes, f"on {os.cpu_count()} CPU cores, without a GPU"


def check_size(size: str) -> str:
    """A name of the table, or a refusal with the nearest one; the full size takes several devices."""
    if size == "medcodi-m":
        raise TrainingError(
            f"size {size} does not fit on one device, and a fit uses one",
            expected=f"{' or '.join(SIZES)}",
            fix="prepare the studies, and train configs/train/medcodi-m with data=… on several GPUs (docs/TRAINING.md)",
        )
    return one_of("size", size, SIZES, TrainingError)


def stage_config(
    stage: str, size: str, data: FitData, dataset: str, root: Path, init: Path | None, minutes: float | None
) -> TrainConfig:
    """The config of one stage: the size's recipe, on this dataset, in ``root/stages``.

    Args:
        stage: Its name.
        size: A row of :data:`SIZES`.
        data: Counts of the studies.
        dataset: The prepared dataset.
        root: The fit's folder.
        init: Model folder of the stage before; None: a fresh model.
        minutes: Time of the whole fit; None: the recipe's steps.
    """
    from medcodi.training.config import TrainConfig

    row, out = SIZES[size], root / "stages" / stage
    plain = load(
        TrainConfig, find_recipe(row.stages[stage]), [f"model={find_recipe(row.model)}"] if init is None else []
    )
    words = [f"data={dataset}", f"out={out}", "engine.name=auto", "num_workers=0"]
    words += [f"model={find_recipe(row.model)}"] if init is None else [f"init={init}", "model=null"]
    words += [f"cache={root / 'cache'}"] if plain.cache else []
    # A batch of at most a quarter of the studies.
    words += [f"batch.global_size={min(plain.batch.global_size, max(4, data.counts['train'] // 4))}"]
    # Small crops of small images; validation where there is something to validate on.
    crop = plain.stage.options.get("crop_size")
    words += ["stage.options.crop_size=null"] if crop is not None and crop > (data.image_size or row.image_size) else []
    words += ["validation=null", "tracking.validate_every=0"] if not data.counts["val"] else []
    if minutes is not None:
        words += [f"steps={UNLIMITED}", "optimizer.schedule=constant", "checkpoint.every=100", "ema.decay=0.99"]
        words += [f"max_minutes={max(minutes * SHARES[stage] - spent_minutes(out), 0.02)}"]
        words += ["tracking.log_every=20", "tracking.samples_every=0", "tracking.mfu=false"]
        words += ["tracking.validate_every=100"] if data.counts["val"] and plain.validation else []
    return load(TrainConfig, find_recipe(row.stages[stage]), words)


def spent_minutes(run: Path) -> float:
    """Minutes of the steps that a run has logged; 0 of a run that has not begun."""
    log, seconds, before = run / "log.jsonl", 0.0, 0
    if not log.is_file():
        return 0.0
    for text in log.read_text(encoding="utf-8").splitlines():
        line = json.loads(text) if text.endswith("}") else {}  # a kill may have cut the last one short
        if per_step := line.get("timing", {}).get("seconds_per_step"):
            seconds += per_step * (line["step"] - before)
            before = line["step"]
    return seconds / 60
