"""Source ``phantom``: a numbered population of thorax phantoms, each split from its own range of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from medcodi.config import config
from medcodi.data.dataset import PHANTOMS_PER_SPLIT, SPLITS
from medcodi.data.sources.announced import AnnouncedStudy, Loaded
from medcodi.data.sources.phantom import phantom_study, phantom_visit_study
from medcodi.data.sources.phantom.patients import check_population, identifiers


@config
class PhantomConfig:
    """Options of source ``phantom``: how many studies of each split, of which population."""

    num_studies: int = 1000  # studies of the training split
    val: int = 0  # studies of the validation split
    test: int = 0  # studies of the test split
    seed: int = 0  # of the population
    version: int = 1  # 2: with a record, several studies a patient, and a body that shows age, sex and habitus
    studies_per_patient: int = 1  # of version 2: 1, 2, 4, 5, 8 or 10

    def __post_init__(self) -> None:
        if self.num_studies < 0 or self.val < 0 or self.test < 0 or self.num_studies + self.val + self.test < 1:
            raise ValueError(
                f"num_studies={self.num_studies}, val={self.val}, test={self.test}: must not be negative, nor all 0"
            )
        check_population(self.version, self.studies_per_patient)


@dataclass(frozen=True, kw_only=True)
class AnnouncedPhantom(AnnouncedStudy):
    """A study that is computed, not read."""

    seed: int
    index: int
    version: int = 1
    studies_per_patient: int = 1

    def files(self) -> dict[str, str]:
        """The study alone: no file exists."""
        return {"study": self.study_id}

    def load(self, image_size: int) -> Loaded:
        """Compute it."""
        if self.version == 2:
            return Loaded(study=phantom_visit_study(self.seed, self.index, image_size, self.studies_per_patient))
        return Loaded(study=phantom_study(self.seed, self.index, image_size))


def studies(options: PhantomConfig) -> Iterator[AnnouncedPhantom]:
    """The studies of the training split, then of the others."""
    version, seed, per_patient = options.version, options.seed, options.studies_per_patient
    for split, count in zip(SPLITS, (options.num_studies, options.val, options.test), strict=True):
        first = SPLITS.index(split) * PHANTOMS_PER_SPLIT
        for index in range(first, first + count):
            study, patient = identifiers(version, seed, index, per_patient)
            yield AnnouncedPhantom(
                study_id=study, patient_id=patient, split=split, seed=seed, index=index,
                version=version, studies_per_patient=per_patient,
            )  # fmt: skip
