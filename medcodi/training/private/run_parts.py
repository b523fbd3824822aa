"""The parts of a run that differ where it is private: its batches, its engine, and what must be unchanged to resume it.

In each step every patient is drawn with the same probability, with all of their studies, or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medcodi.data.batches import GlobalBatches, StepBatches
from medcodi.data.dataset import StudyDataset
from medcodi.distributed import Ranks
from medcodi.errors import CheckpointError, TrainingError
from medcodi.randomness import numpy_generator
from medcodi.storage.checked_json import foreign
from medcodi.training.private.accounting import Mechanism, hash_of, mechanism_of, secret_of, studies_by_patient

if TYPE_CHECKING:
    from medcodi.model import MedCoDi
    from medcodi.stages.stage import Stage
    from medcodi.training.config import TrainConfig
    from medcodi.training.private.engine import PrivateEngine
    from medcodi.training.run_folder import RunFolder


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


# ---- the parts of a run ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PrivateParts:
    """A private run's patients, mechanism and secret, in place of global batches and the plain engine."""

    mechanism: Mechanism
    patients: list[list[int]]  # the indices of each patient's studies
    secret: str

    @property
    def identity(self) -> dict[str, Any]:
        """Values beside its config that must be unchanged when the run is resumed."""
        return {
            "noise": self.mechanism.noise,
            "patients": self.mechanism.patients,
            "secret_hash": hash_of(self.secret),
        }

    def describe(self, steps: int) -> str:
        """The promise in words, for the first line of a run."""
        spent, each = self.mechanism.spent(steps), self.mechanism
        promise = (
            "no promise" if spent["epsilon"] is None else f"epsilon {spent['epsilon']:.3g} at delta {each.delta:g}"
        )
        return (
            f"{each.expected} of {each.patients:,} patients a step on average, noise {each.noise:g}, clip {each.clip:g}: "
            f"{promise} after {steps:,} steps"
        )

    def batches(self, dataset: StudyDataset, config: TrainConfig, ranks: Ranks) -> PatientBatches:
        """The batches of training; ``dataset`` has the studies in the order of the one that the patients were read from."""
        return PatientBatches(
            dataset,
            self.patients,
            rate=self.mechanism.rate,
            secret=self.secret,
            micro_size=config.batch.micro_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            num_workers=config.num_workers,
            timeout_s=config.faults.data_s,
        )

    def engine(self, stage: Stage, config: TrainConfig, ranks: Ranks) -> PrivateEngine:
        """The engine that clips and adds noise."""
        from medcodi.training.private.engine import PrivateEngine

        return PrivateEngine(stage, config, ranks, self.mechanism, self.secret)


def private_parts(
    config: TrainConfig, model: MedCoDi, dataset: StudyDataset, folder: RunFolder, ranks: Ranks
) -> PrivateParts | None:
    """The parts of a private run; None for any other.

    Raises:
        TrainingError: If the promise cannot be made: delta or batch do not suit the patients, or the model was trained on them.
    """
    if config.privacy is None:
        return None
    with foreign(
        str(config.init), CheckpointError, expected="an index as save_pretrained writes it", fix="fetch it again"
    ):
        stage = _trained_on(model.provenance, dataset.fingerprint)
    if stage:
        raise TrainingError(
            f"{config.init} was trained on the same studies in stage {stage!r}, without a promise",
            expected="a model of other studies: what it has learnt of these, no noise takes back",
            fix="init=demo, or another model of public studies",
        )
    patients = studies_by_patient(dataset)
    mechanism = mechanism_of(config, len(patients))
    assert mechanism is not None
    return PrivateParts(mechanism, patients, secret_of(folder.secret, ranks))


def _trained_on(provenance: dict[str, Any], fingerprint: str) -> str:
    """The stage in which a model saw these studies, or the first of them, by its own records; empty: none is known."""
    records = dict(provenance.get("training", {}))
    for entry in (*provenance.get("adapters", ()), *provenance.get("averaged", ())):
        records |= {entry["stage"]: entry["training"]} if "stage" in entry else entry.get("training", {})
    ours = fingerprint.split("[")[0]  # of a prepared dataset, "…[:100]" are its first studies
    return next((stage for stage, record in records.items() if str(record.get("data", "")).split("[")[0] == ours), "")
