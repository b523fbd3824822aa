"""One target of one direction, with everything that its metrics are computed from; and the derangements that floors are taken over.

**The floor.** A generation depends on its prompts and on its own seed, and seeds are drawn without looking at studies. So the pairs
(generated from the prompts of j, truth of i), i and j of different patients, follow the law of generating with shuffled prompts and
scoring against the study that was asked for. The floor scores the *same* generations against truth moved by derangements between
patients, which needs no second generation and leaves the model's marginal behaviour as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from medcodi.errors import DataError
from medcodi.evaluation.annotations import AnnotationTable, StudyTable
from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.scoring.figures import TargetScores
from medcodi.evaluation.scoring.groups import groups_of
from medcodi.metrics.bootstrap import resampling_weights
from medcodi.metrics.text import TextScorer
from medcodi.randomness import numpy_generator

NUM_DERANGEMENTS = 16


def derangements(patients: Sequence[str], num: int, seed: int) -> list[np.ndarray]:
    """Permutations that give every study the truth of another *patient's* study.

    Patients are put in a random order, their studies side by side, and shifted in a circle by at least as many places as one patient has
    studies; every shift is another derangement.

    Args:
        patients: Patient of each of ``N`` studies.
        num: At most this many.
        seed: Of the order and the choice of shifts.

    Returns:
        int ``[N]`` each: study ``i`` is given the truth of ``permutation[i]``.

    Raises:
        DataError: If one patient has more than half of the studies, so that there is none.
    """
    names, cluster, sizes = np.unique(
        np.asarray(patients, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    largest, total = int(sizes.max()), len(patients)
    if total < 2 * largest:
        raise DataError(
            f"one patient has {largest} of {total} studies, so prompts cannot be shuffled between patients",
            expected=f"at least {2 * largest} studies",
            fix="score more patients",
        )
    generator = numpy_generator("derangement", seed)
    order = np.argsort(generator.permutation(len(names))[cluster], kind="stable")
    shifts = generator.permutation(np.arange(largest, total - largest + 1))[:num]
    permutations = []
    for shift in shifts:
        permutation = np.empty(total, dtype=np.int64)
        permutation[order] = np.roll(order, -int(shift))
        permutations.append(permutation)
    return permutations


@dataclass
class ScoredStudies:
    """The studies that a direction is scored on: their patients, truth, resamples and derangements."""

    table: StudyTable  # all held-out studies
    rows: list[int]  # which of them
    config: ScoringConfig
    image_size: int  # pixels per side

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def patients(self) -> list[str]:
        """Patient of each."""
        return [self.table.patients[row] for row in self.rows]

    @cached_property
    def ids(self) -> list[str]:
        """Id of each."""
        return [self.table.ids[row] for row in self.rows]

    @cached_property
    def weights(self) -> np.ndarray:
        """Bootstrap resamples, ``[R, N]``."""
        return resampling_weights(self.patients, self.config.bootstrap_samples, self.config.seed)

    @cached_property
    def moved(self) -> list[np.ndarray]:
        """Derangements between patients, int ``[N]`` each."""
        return derangements(self.patients, NUM_DERANGEMENTS, self.config.seed)

    @cached_property
    def truth(self) -> np.ndarray:
        """float32 ``[N, 14]`` of 0, 1, NaN."""
        return self.table.truth[self.rows]

    @cached_property
    def sides(self) -> np.ndarray:
        """True sides, int8 ``[N, 14]``."""
        return self.table.sides[self.rows]

    @cached_property
    def groups(self) -> tuple[list[str], str]:
        """The group of each, and why there is none: see :func:`groups_of`."""
        groups, reason = groups_of(self.table, self.config.subgroup_by)
        return [groups[row] for row in self.rows] if groups else [], reason

    def records(self, modality: str) -> np.ndarray:
        """True values of the records of one modality, float64 ``[N, F]``, NaN where unknown."""
        return self.table.records[modality][self.rows]


@dataclass
class Case:
    """One target of one direction."""

    target: str  # which target
    studies: ScoredStudies  # the studies that it is scored on
    generated: AnnotationTable  # annotations of its generated and of its real contents, in the order of the studies
    real: AnnotationTable
    scorer: TextScorer | None = None  # of texts; None without a text target
    scores: TargetScores = field(default_factory=TargetScores)  # what the groups of metrics fill in
    prompted_by: tuple[str, ...] = ()  # the direction's prompts
    # real contents of the prompts that were annotated, in the order of the studies
    prompts: Mapping[str, AnnotationTable] = field(default_factory=dict)

    @property
    def config(self) -> ScoringConfig:
        """The config of scoring."""
        return self.studies.config
