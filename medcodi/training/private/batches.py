"""Batches of a private run: in each step every patient is drawn with the same probability, with all of their studies, or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import GlobalBatches, StepBatches
from medcodi.randomness import numpy_generator


class PatientBatches(GlobalBatches):
    """The patients of step s are a function of (secret, s) only; rank r of w takes every w-th of them.

    A micro-batch holds whole patients, and at most ``micro_size`` studies, unless one patient has more. A rank whose patients are
    none has no micro-batch in that step.
    """

    def __init__(
        self,
        dataset: StudyDataset,
        patients: Sequence[Sequence[int]],
        *,
        rate: float,
        secret: str,
        micro_size: int | None,
        rank: int,
        world_size: int,
        **reading: Any,
    ) -> None:
        """Describe the batches.

        Args:
            dataset: The studies, encoded or not.
            patients: The indices of each patient's studies.
            rate: Probability with which a patient is drawn in a step.
            secret: Key of the draws.
            micro_size: Most studies of a micro-batch; None: no limit.
            rank: This process.
            world_size: Number of processes.
            **reading: ``num_workers`` and ``timeout_s`` of :class:`GlobalBatches`.
        """
        super().__init__(dataset, batch_size=world_size, rank=rank, world_size=world_size, **reading)
        self.patients, self.rate, self.secret, self.micro_size = patients, rate, secret, micro_size

    def drawn(self, step: int) -> list[int]:
        """Numbers of the patients of a step, of all ranks."""
        u = numpy_generator("privacy sampling", self.secret, step).random(len(self.patients))
        return np.flatnonzero(u < self.rate).tolist()

    def samples(self, step: int) -> tuple[int, ...]:
        """Dataset indices of the studies of a step, of all ranks."""
        return tuple(index for patient in self.drawn(step) for index in self.patients[patient])

    def share(self, step: int) -> tuple[int, ...]:
        """Dataset indices that this rank sees in a step."""
        return tuple(index for part in self._parts(step) for index in part)

    def batches(self, step: int) -> StepBatches:
        """Read what this rank sees in a step."""
        return StepBatches(step, tuple(self._read(part) for part in self._parts(step)))

    def _parts(self, step: int) -> Iterator[tuple[int, ...]]:
        """The micro-batches of this rank, as dataset indices."""
        part: list[int] = []
        for patient in self.drawn(step)[self.rank :: self.world_size]:
            studies = self.patients[patient]
            if part and self.micro_size is not None and len(part) + len(studies) > self.micro_size:
                yield tuple(part)
                part = []
            part += studies
        if part:
            yield tuple(part)
