"""A run that trains on a cache: makes it where it is missing, and holds nothing in memory that its steps do not use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import DataConfig
from medcodi.distributed import Ranks
from medcodi.model import MedCoDi
from medcodi.training.caching.key import cache_key
from medcodi.training.caching.making import make_cache
from medcodi.training.caching.reading import EncodedStudies
from medcodi.training.faults import Watchdog

if TYPE_CHECKING:
    from medcodi.stages.stage import Stage
    from medcodi.training.config import TrainConfig

SECONDS_BETWEEN_LINES = 30.0


def from_cache(
    stage: Stage,
    run: TrainConfig,
    dataset: StudyDataset,
    validation: StudyDataset | None,
    processes: Ranks,
    watch: Watchdog,
) -> tuple[EncodedStudies, EncodedStudies | None]:
    """A run's studies, encoded; afterwards the model holds the components that a step uses, and no other.

    Args:
        stage: Around a model that was opened lazily.
        run: Its ``cache`` is set.
        dataset: Its training studies.
        validation: Its held-out studies.
        processes: Its ranks: all of them encode, where there is something to encode.
        watch: Told what is being done.

    Raises:
        DataError: If the cache is of other weights or data, damaged, or cannot be written.
    """
    held_out = None
    encoded = _open_or_make(stage.model, run, run.data, dataset, processes, watch)
    if validation is not None and run.validation is not None:
        held_out = _open_or_make(stage.model, run, run.validation, validation, processes, watch)
    hold_only(stage)
    return encoded, held_out


def cache_folder(run: TrainConfig, data: DataConfig) -> Path:
    """Where a run's studies lie encoded: by their split; held-out studies that only share its name have a folder of their own."""
    namesake = data is run.validation and data.split == run.data.split and data != run.data
    return Path(run.cache or "") / (f"validation-{data.split}" if namesake else data.split)


def _open_or_make(
    model: MedCoDi,
    run: TrainConfig,
    data: DataConfig,
    dataset: StudyDataset,
    processes: Ranks,
    watch: Watchdog,
) -> EncodedStudies:
    key = cache_key(model, dataset, split=data.split, precision="bf16" if run.precision == "bf16" else "fp32")
    folder = cache_folder(run, data)
    began = time.monotonic()
    spoken = [began]

    def tell(done: int, total: int) -> None:
        now = time.monotonic()
        if now - spoken[0] >= SECONDS_BETWEEN_LINES or done == total:
            spoken[0] = now
            rate = done / max(now - began, 1e-9)
            left = (total - done) / max(rate, 1e-9) / 60
            print(
                f"encoding into {folder}: {done:,} of {total:,} studies, {rate:.1f} a second, {left:.1f} min left",
                flush=True,
            )

    watch.report(f"encoding {dataset.name} into {folder}")
    with borrowed(model):
        return make_cache(
            model, dataset, folder, key, processes=processes, num_workers=run.num_workers, on_progress=tell
        )


@contextmanager
def borrowed(model: MedCoDi) -> Iterator[None]:
    """Components that are read from disk inside are given back at the end."""
    before = set(model.pending)
    try:
        yield
    finally:
        if back := before - model.pending:
            model.unload_components(back)


def hold_only(stage: Stage) -> None:
    """Load the components that a step of ``stage`` uses on encoded studies; those still on disk leave the stage's tree."""
    model, needed = stage.model, set(stage.components())
    model.load_components(needed)
    model.set_aside(set(model.pending))
