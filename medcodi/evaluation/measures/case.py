"""One target of one direction, with all that its metrics are taken of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from medcodi.evaluation.annotators.findings import FindingAnnotations
from medcodi.evaluation.derangements import derangements
from medcodi.evaluation.held_out import HeldOut, Value
from medcodi.evaluation.reading import ContentReading, Readers
from medcodi.evaluation.scores import ScoringOptions, TargetScores
from medcodi.metrics.bootstrap import resampling_weights
from medcodi.metrics.text import TextScorer
from medcodi.study import Direction

NUM_DERANGEMENTS = 16
Contents = Callable[[Sequence[int]], list[Value]]  # rows of the held-out studies -> contents


@dataclass
class Studies:
    """The studies that a direction was scored on: their patients, resamples and derangements.

    Attributes:
        held: All held-out studies.
        rows: Which of them.
        options: Of scoring.
    """

    held: HeldOut
    rows: list[int]
    options: ScoringOptions

    @cached_property
    def patients(self) -> list[str]:
        """Patient of each."""
        return [self.held.patients[row] for row in self.rows]

    @cached_property
    def ids(self) -> list[str]:
        """Id of each."""
        return [self.held.ids[row] for row in self.rows]

    @cached_property
    def weights(self) -> np.ndarray:
        """Bootstrap resamples, ``[R, N]``."""
        return resampling_weights(self.patients, self.options.bootstrap_samples, self.options.seed)

    @cached_property
    def moved(self) -> list[np.ndarray]:
        """Derangements between patients."""
        return derangements(self.patients, NUM_DERANGEMENTS, self.options.seed)

    @cached_property
    def truth(self) -> np.ndarray:
        """float32 ``[N, 14]`` of 0, 1, NaN."""
        return self.held.truth[self.rows]


@dataclass
class Case:
    """One target of one direction.

    Attributes:
        direction: Prompts and targets.
        target: Which target.
        studies: It was scored on.
        generated, real: What was read from the contents.
        readers: By whom.
        scorer: Of texts; None without a text target.
        generated_values, real_values: Contents of some studies, for metrics of pairs of images.
        scores: To be filled.
    """

    direction: Direction
    target: str
    studies: Studies
    generated: ContentReading
    real: ContentReading
    readers: Readers
    scorer: TextScorer | None
    generated_values: Contents
    real_values: Contents
    scores: TargetScores = field(default_factory=TargetScores)

    @property
    def options(self) -> ScoringOptions:
        """Of scoring."""
        return self.studies.options

    @cached_property
    def generated_findings(self) -> FindingAnnotations:
        """Findings read from what was generated."""
        return self.readers.findings(self.generated)

    @cached_property
    def real_findings(self) -> FindingAnnotations:
        """Findings read from the truth by the same reader."""
        return self.readers.findings(self.real)
