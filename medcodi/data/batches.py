"""Batches of studies: the same global batches for any number of ranks, from any step, in bounded memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from medcodi.data.dataset import StudyDataset, read_study
from medcodi.data.loading import Batch, collate
from medcodi.errors import ConfigError, DataError, first_line
from medcodi.randomness import numpy_generator

_PREFETCH = 2  # steps that each worker reads ahead
_LATE_WORD_S = 2.0  # from the broken connection of a dead worker to the signal of its death


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of one rank in one optimiser step, in order."""

    step: int
    micro: tuple[Batch, ...]


class GlobalBatches:
    """The global batch of step s is a function of (seed, s) only; rank r of w takes the r-th of w contiguous slices.

    Positions run through one seeded permutation of the dataset per epoch, without a break between epochs, so every
    study is seen once an epoch whatever the batch size, and a batch may straddle two epochs.
    """

    def __init__(
        self,
        dataset: StudyDataset,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        num_workers: int = 0,
        timeout_s: float = 0.0,
    ) -> None:
        """Describe the batches; nothing is read yet.

        Args:
            dataset: The studies.
            batch_size: Studies in one global batch: all ranks, all micro-batches.
            seed: Key of the order.
            rank: This process.
            world_size: Number of processes.
            accumulation: Micro-batches a rank splits its slice into.
            num_workers: Processes that read ahead, two steps each; 0 reads in this one.
            timeout_s: Seconds after which a step that has not come is an error; 0 never times out. Without
                workers reading is never cut short.

        Raises:
            ConfigError: If ``batch_size`` does not divide evenly, or the numbers are impossible.
            DataError: If the dataset is empty.
        """
        if min(batch_size, world_size, accumulation) < 1 or num_workers < 0 or not 0 <= rank < world_size:
            raise ConfigError(
                f"batches of {batch_size} for rank {rank} of {world_size}, {accumulation} micro-batches, {num_workers} workers",
                expected="positive numbers and a rank below the number of ranks",
            )
        if batch_size % (world_size * accumulation):
            raise ConfigError(
                f"a global batch of {batch_size} does not divide among {world_size} ranks × {accumulation} micro-batches",
                expected=f"a multiple of {world_size * accumulation}",
                fix=f"batch_size={-(-batch_size // (world_size * accumulation)) * world_size * accumulation}",
            )
        if len(dataset) == 0:
            raise DataError(
                f"dataset {dataset.name!r} holds no studies", expected="at least one", fix="choose another split"
            )
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self.num_workers, self.timeout_s = num_workers, timeout_s
        self.first_step = 0  # of the current iteration: the workers take the steps from here on in turn

    def samples(self, step: int) -> tuple[int, ...]:
        """Dataset indices of the global batch of ``step``, counted from 0."""
        size = len(self.dataset)
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        return tuple(int(_permutation(size, self.seed, position // size)[position % size]) for position in positions)

    def batches(self, step: int) -> StepBatches:
        """Read what this rank sees in ``step``."""
        samples = self.share(step)
        size = len(samples) // self.accumulation
        # Cut the rank's slice of the global batch into its micro-batches.
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        return StepBatches(step, tuple(self._read(part) for part in parts))

    def iterate(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[StepBatches]:
        """The steps from ``start_step`` (included) to ``stop_step`` (excluded; None: endless), read ahead by workers.

        Raises:
            DataError: If a worker is killed, or no step comes within ``timeout_s``: the step and its studies are named.
        """
        stop_step = 2**62 if stop_step is None else stop_step
        self.first_step = start_step
        steps = range(start_step, max(start_step, stop_step))
        if self.num_workers == 0:
            yield from (self.batches(step) for step in steps)
            return
        # Workers read whole steps ahead, in turn.
        loader = DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=steps,
            num_workers=self.num_workers,
            prefetch_factor=_PREFETCH,
            timeout=self.timeout_s,
            worker_init_fn=_leave_interrupts,
            generator=torch.Generator().manual_seed(self.seed),  # or it would draw from the global one
        )
        next_step = start_step
        try:
            for batches in loader:
                if isinstance(batches, DataError):
                    raise batches
                yield batches
                next_step = batches.step + 1
        except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
            refusal = workers_failed(self, next_step, error)
            if refusal is None:
                raise
            raise refusal from error

    def share(self, step: int) -> tuple[int, ...]:
        """Dataset indices that this rank sees in ``step``."""
        # Rank r takes the r-th contiguous slice.
        size = self.batch_size // self.world_size
        return self.samples(step)[self.rank * size : (self.rank + 1) * size]

    def _read(self, samples: tuple[int, ...]) -> Batch:
        read_batch = getattr(self.dataset, "read_batch", None)  # a dataset of encoded studies makes its own batches
        if read_batch is not None:
            return read_batch(samples)
        return collate([read_study(self.dataset, sample) for sample in samples], samples, self.dataset.image_size)


def _leave_interrupts(_: int) -> None:
    """Ctrl-C reaches every process of a run: the run saves, and still needs its workers for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Steps(Dataset[StepBatches]):
    """Steps as a map-style dataset, so that torch's workers can read them."""

    def __init__(self, source: GlobalBatches) -> None:
        self.source = source

    def __getitem__(self, index: int) -> StepBatches | DataError:
        try:
            return self.source.batches(index)
        except DataError as error:  # returned, because torch would wrap a raised one in a page of traces
            return error


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return numpy_generator("order", seed, epoch).permutation(size)


# ---- steps that do not arrive: which rank, which worker, which studies ------------------------------------------------
def missing(source: GlobalBatches, step: int, why: str = "") -> str:
    """A sentence that names the rank, worker and studies whose step did not arrive."""
    worker = f"; by worker {(step - source.first_step) % source.num_workers} of {source.num_workers}"
    return (
        f"rank {source.rank}: step {step} of {source.dataset.name} did not come{f' ({why})' if why else ''}; "
        f"studies number {source.share(step)[:8]}{worker if source.num_workers else ''}"
    )


def workers_failed(source: GlobalBatches, step: int, error: Exception) -> DataError | None:
    """The refusal for workers that are late, or dead: torch reports them by the text of its errors alone.

    None if the error is of another kind. Torch's handler of dead workers may raise it anywhere, not only while waiting.
    """
    text = first_line(error) if str(error) else ""
    if isinstance(error, RuntimeError) and "DataLoader" not in text:
        return None
    if "timed out" in text:
        refusal = DataError(
            missing(source, step, f"within {source.timeout_s:g} s"),
            expected="workers that read",
            fix="look at the disk or network of the data",
        )
    else:
        # A connection broke: torch's word of the dead worker is on its way still, and would break into whatever the run does then.
        if not isinstance(error, RuntimeError):
            with suppress(RuntimeError):
                time.sleep(_LATE_WORD_S)
        refusal = DataError(
            missing(source, step, text or f"a worker left: {type(error).__name__}"),
            expected="workers that live",
            fix="fewer num_workers need less memory",
        )
    refusal.exit_code = 3  # what failed was a machine: it may do better next time
    return refusal
