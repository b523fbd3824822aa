"""The parts of a run that differ where it is private: its batches, its engine, and what must be unchanged to resume it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medcodi.data.dataset import StudyDataset
from medcodi.distributed import Ranks
from medcodi.errors import TrainingError
from medcodi.training.private.accounting import Mechanism, hash_of, mechanism_of, secret_of, studies_by_patient
from medcodi.training.private.batches import PatientBatches

if TYPE_CHECKING:
    from medcodi.model import MedCoDi
    from medcodi.stages.stage import Stage
    from medcodi.training.config import TrainConfig
    from medcodi.training.private.engine import PrivateEngine
    from medcodi.training.run_folder import RunFolder


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
    if stage := _trained_on(model.provenance, dataset.fingerprint):
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
