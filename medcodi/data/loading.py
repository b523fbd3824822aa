"""The studies of a run as its config names them, and a batch of studies as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from medcodi.config import config
from medcodi.data.dataset import PHANTOMS_PER_SPLIT, SPLITS, FirstStudies, StudyDataset, open_dataset
from medcodi.errors import ConfigError, DataError, one_of
from medcodi.modality import MODALITIES
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
    # Version and studies_per_patient are left out of a stored config at their defaults, so that runs from before they existed can be
    # resumed.

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
