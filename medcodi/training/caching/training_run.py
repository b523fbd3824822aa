"""A training run on a cache: encodes what is missing, and loads only the components that its steps use."""

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
from medcodi.training.caching.encoded_studies import EncodedStudies
from medcodi.training.caching.format import cache_key
from medcodi.training.caching.make_cache import make_cache
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
    ranks: Ranks,
    watch: Watchdog,
) -> tuple[EncodedStudies, EncodedStudies | None]:
    """The studies of a run, encoded; afterwards only the components that a step uses are loaded.

    Args:
        stage: Around a model that was opened lazily.
        run: Its ``cache`` is set.
        dataset: Training studies.
        validation: Held-out studies.
        ranks: All of them encode what is missing.
        watch: Shows what the run is doing.

    Raises:
        DataError: If the cache is of other weights or data, damaged, or cannot be written.
    """
    validation_studies = None
    encoded = _open_or_make(stage.model, run, run.data, dataset, ranks, watch)
    if validation is not None and run.validation is not None:
        validation_studies = _open_or_make(stage.model, run, run.validation, validation, ranks, watch)
    hold_only(stage, cached=True)
    return encoded, validation_studies


def cache_folder(run: TrainConfig, data: DataConfig) -> Path:
    """The folder of a run's encoded studies: named after their split, with a folder of its own for other studies of the same split."""
    other_studies = data is run.validation and data.split == run.data.split and data != run.data
    return Path(run.cache or "") / (f"validation-{data.split}" if other_studies else data.split)


def _open_or_make(
    model: MedCoDi,
    run: TrainConfig,
    data: DataConfig,
    dataset: StudyDataset,
    ranks: Ranks,
    watch: Watchdog,
) -> EncodedStudies:
    key = cache_key(model, dataset, split=data.split, precision="bf16" if run.precision == "bf16" else "fp32")
    folder = cache_folder(run, data)
    began = time.monotonic()
    last_line = [began]

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last_line[0] >= SECONDS_BETWEEN_LINES or done == total:
            last_line[0] = now
            rate = done / max(now - began, 1e-9)
            left = (total - done) / max(rate, 1e-9) / 60
            print(
                f"encoding into {folder}: {done:,} of {total:,} studies, {rate:.1f} a second, {left:.1f} min left",
                flush=True,
            )

    watch.report(f"encoding {dataset.name} into {folder}")
    with borrowed(model):
        return make_cache(model, dataset, folder, key, ranks=ranks, num_workers=run.num_workers, on_progress=report)


@contextmanager
def borrowed(model: MedCoDi) -> Iterator[None]:
    """Unload at the end the components that were read from disk inside."""
    before = set(model.pending)
    try:
        yield
    finally:
        if loaded := before - model.pending:
            model.unload_components(loaded)


def hold_only(stage: Stage, *, cached: bool) -> None:
    """Load the components that a step of ``stage`` runs; those still on disk leave the stage's tree, until samples need them."""
    model, needed = stage.model, set(stage.components(cached=cached))
    model.load_components(needed)
    model.hide_components(set(model.pending))
