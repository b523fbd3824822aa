"""Batches of studies: the same global batches for any number of ranks, from any step, in bounded memory."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medcodi.config import config
from medcodi.data.dataset import PHANTOMS_PER_SPLIT, SPLITS, FirstStudies, StudyDataset, open_dataset, read_study
from medcodi.data.refusals import workers_failed
from medcodi.errors import ConfigError, DataError, one_of
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.record import RecordValue
from medcodi.study import CHEXPERT_LABELS, Study
from medcodi.transfer import to_device

BatchContent = Tensor | list[str] | list[dict[str, RecordValue]]


@dataclass(frozen=True)
class Batch:
    """A batch of B studies."""

    # modality -> float32 ``[B, 1, H, W]`` in [0, 1] (zeros where absent), B strings ("" where absent), or B records
    # ({} where absent)
    contents: dict[str, BatchContent]
    present: dict[str, Tensor]  # modality -> bool ``[B]``, True where the study holds it
    labels: Tensor  # float32 ``[B, 14]`` in ``CHEXPERT_LABELS`` order: 1 present, 0 absent, -1 uncertain, NaN unknown
    study_ids: list[str] = field(default_factory=list)  # B identifiers
    patient_ids: list[str] = field(default_factory=list)  # B identifiers
    samples: tuple[int, ...] = ()  # index of each study in its dataset: the key of its randomness

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            contents={
                name: to_device(value, device) if isinstance(value, Tensor) else value
                for name, value in self.contents.items()
            },
            present={name: to_device(mask, device) for name, mask in self.present.items()},
            labels=to_device(self.labels, device),
        )

    def rows(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop`` as a batch of their own; tensors share memory with this one."""
        part = slice(start, stop)
        return Batch(
            contents={name: value[part] for name, value in self.contents.items()},
            present={name: mask[part] for name, mask in self.present.items()},
            labels=self.labels[part],
            study_ids=self.study_ids[part],
            patient_ids=self.patient_ids[part],
            samples=self.samples[part],
        )


def collate(studies: Sequence[Study], samples: Sequence[int], image_size: int) -> Batch:
    """Put studies into one batch; absent modalities become zeros or "" and are marked absent.

    Raises:
        DataError: If an image is not ``[image_size, image_size]``.
    """
    contents: dict[str, BatchContent] = {}
    present = {
        name: torch.tensor([name in study.contents for study in studies], dtype=torch.bool) for name in MODALITIES
    }
    for name, row in MODALITIES.items():
        if row.kind == "text":
            contents[name] = [str(study.contents.get(name, "")) for study in studies]
        elif row.kind == "table":
            contents[name] = [dict(study.contents.get(name) or {}) for study in studies]  # type: ignore[call-overload]
        else:
            contents[name] = _stack_images(studies, name, image_size)
    # [B, 14], NaN where a label is unknown.
    labels = [[study.labels.get(label, np.nan) for label in CHEXPERT_LABELS] for study in studies]
    return Batch(
        contents=contents,
        present=present,
        labels=torch.tensor(labels, dtype=torch.float32).reshape(len(studies), len(CHEXPERT_LABELS)),
        study_ids=[study.study_id for study in studies],
        patient_ids=[study.patient_id for study in studies],
        samples=tuple(int(sample) for sample in samples),
    )


def _stack_images(studies: Sequence[Study], name: str, size: int) -> Tensor:
    # [B, 1, H, W]; absent images stay zero.
    stack = torch.zeros(len(studies), 1, size, size)
    for row, study in enumerate(studies):
        image = study.images.get(name)
        if image is None:
            continue
        if image.shape != (size, size):
            raise DataError(
                f"study {study.study_id!r}: its {name} image is {'×'.join(map(str, image.shape))}",
                expected=f"{size}×{size} pixels",
                fix="prepare the dataset at this image size, or train at the dataset's",
            )
        stack[row, 0] = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    return stack


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
        prefetch: int = 2,
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
            num_workers: Processes that read ahead; 0 reads in this one.
            prefetch: Steps each of these keeps ready: at most ``num_workers * prefetch`` steps are in memory.
            timeout_s: Seconds after which a step that has not come is an error; 0 never times out. Without
                workers reading is never cut short.

        Raises:
            ConfigError: If ``batch_size`` does not divide evenly, or the numbers are impossible.
            DataError: If the dataset is empty.
        """
        if min(batch_size, world_size, accumulation, prefetch) < 1 or num_workers < 0 or not 0 <= rank < world_size:
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
        self.num_workers, self.prefetch, self.timeout_s = num_workers, prefetch, timeout_s
        self.first_step = 0  # that is read: the workers take the steps from here on in turn

    def samples(self, step: int) -> tuple[int, ...]:
        """Dataset indices of the global batch of ``step``, counted from 0."""
        size = len(self.dataset)
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        return tuple(int(_permutation(size, self.seed, position // size)[position % size]) for position in positions)

    def batches(self, step: int) -> StepBatches:
        """Read what this rank sees in ``step``."""
        samples = self.share(step)
        size = len(samples) // self.accumulation
        # The rank's slice of the global batch, cut into its micro-batches.
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
            prefetch_factor=self.prefetch,
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


PHANTOM_SIZE = 128  # pixels a side of a phantom's films, where none are named


@config
class DataConfig:
    """The studies: a prepared folder (``path``) or a generator (``source: phantom``), and their split; a text alone is the path."""

    # A folder made by ``medcodi data prepare``, or a URL of one that fsspec reads (``s3://...``), copied once
    path: str | None = None
    source: str | None = None  # ``"phantom"``: generated on the fly
    split: str = "train"  # ``train``, ``val`` or ``test``; the phantom's are disjoint by construction
    # Use the first N studies; None: all of a prepared split (the phantom needs a number)
    num_studies: int | None = None
    # Pixels a side; must be the prepared folder's. None: the prepared folder's, 128 for the phantom
    image_size: int | None = None
    seed: int = 0  # Of the phantom
    # Both are left out of a stored config at their defaults, so that runs from before they existed can be resumed.

    # Of the phantom: 1, or 2 with a record and several studies a patient
    version: Annotated[int, Field(exclude_if=lambda value: value == 1)] = 1
    # Of phantom version 2: 1, 2, 4, 5, 8 or 10
    studies_per_patient: Annotated[int, Field(exclude_if=lambda value: value == 1)] = 1

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, values: Any) -> Any:
        return {"path": values} if isinstance(values, str) else values

    def __post_init__(self) -> None:
        if (self.path is None) == (self.source is None):
            hint = f"; data={self.path} replaces all of it" if self.path is not None else ""
            raise ValueError(f"path={self.path!r} and source={self.source!r}: give one of them{hint}")
        if self.source is not None:
            one_of("source", self.source, ["phantom"], ConfigError)
            if self.num_studies is None:
                raise ValueError("source: phantom needs num_studies, because it has no end")
            if self.num_studies > PHANTOMS_PER_SPLIT:  # or the splits would run into each other
                raise ValueError(f"num_studies is {self.num_studies:,}, must be at most {PHANTOMS_PER_SPLIT:,}")
        one_of("split", self.split, SPLITS, ConfigError)
        if self.num_studies is not None and self.num_studies < 1:
            raise ValueError(f"num_studies is {self.num_studies}, must be at least 1")
        if self.image_size is not None and self.image_size < 16:
            raise ValueError(f"image_size is {self.image_size}, must be at least 16")

    def build(self) -> StudyDataset:
        """Open the studies.

        Raises:
            DataError: If there is no such dataset or split, it is of another image size, or has fewer studies.
        """
        if self.path is None:
            from medcodi.data.sources.phantom import PhantomDataset

            # Each split of the phantom has its own range of indices.
            offset = SPLITS.index(self.split) * PHANTOMS_PER_SPLIT
            size = self.image_size or PHANTOM_SIZE
            return PhantomDataset(
                self.num_studies or 0, self.seed, size, offset, self.version, self.studies_per_patient
            )
        dataset = open_dataset(self.path, self.split)
        if self.image_size is not None and dataset.image_size != self.image_size:
            raise DataError(
                f"{self.path} was prepared at {dataset.image_size} pixels, image_size is {self.image_size}",
                expected="the same size",
                fix=f"data.image_size={dataset.image_size}, or prepare it again at {self.image_size}",
            )
        return dataset if self.num_studies is None else FirstStudies(dataset, self.num_studies)
