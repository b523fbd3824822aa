"""Source ``phantom``: a numbered population of thorax phantoms, each split from its own range of numbers."""

from __future__ import annotations

from collections.abc import Iterator

from medcodi.config import config
from medcodi.data.dataset import PHANTOMS_PER_SPLIT, SPLITS
from medcodi.data.sources.announced import AnnouncedPhantom, AnnouncedStudy
from medcodi.data.sources.phantom.patients import check_population


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


def studies(options: PhantomConfig) -> Iterator[AnnouncedStudy]:
    """The studies of the training split, then of the others."""
    for split, count in zip(SPLITS, (options.num_studies, options.val, options.test), strict=True):
        first = SPLITS.index(split) * PHANTOMS_PER_SPLIT
        for index in range(first, first + count):
            yield AnnouncedPhantom.of(options.version, options.seed, index, options.studies_per_patient, split)
