"""What a run asks of its data and of its disk, checked before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from medcodi.data.dataset import StudyDataset
from medcodi.errors import TrainingError
from medcodi.stages.stage import Stage
from medcodi.training import checkpoint
from medcodi.training.config import TrainConfig


def check_data(stage: Stage, dataset: StudyDataset, role: str = "data") -> None:
    """Refuse studies that the stage could not be trained on.

    Args:
        stage: Around its model.
        dataset: Its studies; one that cannot count its modalities is taken to hold all.
        role: The key of the config that names it.

    Raises:
        TrainingError: If it was prepared at another size than the model's, or a modality that the stage needs is in no study.
    """
    size = stage.model.config.image_size
    if dataset.image_size != size:
        raise TrainingError(
            f"{role}: {dataset.name} was prepared at {dataset.image_size} pixels, the model takes {size}",
            expected="the same size",
            fix=f"prepare the studies with image_size={size} and set {role}.image_size={size}, or take another model",
        )
    counted = getattr(dataset, "modality_counts", None)
    if counted is None:
        return
    counts: dict[str, int] = counted()
    missing = [name for name in stage.needs() if not counts.get(name)]
    if missing:
        held = ", ".join(f"{name} in {count:,}" for name, count in counts.items() if count) or "nothing"
        raise TrainingError(
            f"{role}: of the {len(dataset):,} studies of {dataset.name}, none has {' or '.join(missing)} (they hold {held})",
            expected=f"{', '.join(stage.needs())}: what stage {stage.name!r} trains here",
            fix=f"prepare them with {missing[0]}, or train a model, or stage.options, without it",
        )


def check_room(folder: Path, config: TrainConfig, trained: Iterable[nn.Parameter], start_step: int) -> None:
    """Refuse a disk that cannot hold the checkpoints to come.

    Args:
        folder: Of the checkpoints.
        config: The run.
        trained: Its trained parameters, whole.
        start_step: Steps done.

    Raises:
        TrainingError: If there is less room than they will take, all that are there at one time.
    """
    copies = 4 if config.ema.enabled else 3  # weights, both moments, average: float32
    size = 4 * copies * sum(parameter.numel() for parameter in trained)
    there = len(checkpoint.found(folder))
    every = config.checkpoint.every or config.steps
    to_come = -(-config.steps // every) - start_step // every
    for_good = config.checkpoint.keep_every or config.steps + 1
    stay = config.checkpoint.keep + config.steps // for_good - start_step // for_good
    more = max(1, min(to_come, stay + 1 - there))  # one is written before the oldest goes
    free = shutil.disk_usage(folder).free
    if more * size > free:
        raise TrainingError(
            f"{folder} has room for {free / 2**30:.3g} GiB, a checkpoint takes {size / 2**30:.3g} GiB",
            expected=f"room for {more} more: the run keeps {stay}, and writes one before the oldest goes",
            fix="make room, lower checkpoint.keep, raise checkpoint.keep_every, or choose another out=…",
        )
