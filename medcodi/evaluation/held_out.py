"""The real side of an evaluation: held-out studies, their truth, what classifier and labeler read from the real targets, and derangements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medcodi.data.loading import StudyDataset
from medcodi.errors import DataError
from medcodi.evaluation.classifier import FindingClassifier, target_truth
from medcodi.metrics.labeler import label_matrix, label_report, labels_from_findings
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Direction, Finding, Study

Value = np.ndarray | str


def eight_bit(image: np.ndarray) -> np.ndarray:
    """An image as it comes back from an 8-bit file: float32 in [0, 1], 256 levels. Real and generated are judged alike."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).astype(np.float32) / 255


@dataclass(frozen=True)
class Reading:
    """What was read from one modality of N studies.

    Attributes:
        labels: float32 ``[N, 14]`` of 0, 1 (NaN: not judged in this modality).
        sides: For each study, findings with their side.
        features: float32 ``[N, D]`` of an image modality, else None.
    """

    labels: np.ndarray
    sides: list[tuple[Finding, ...]]
    features: np.ndarray | None = None

    def rows(self, chosen: Sequence[int]) -> Reading:
        """The reading of some of the studies."""
        return Reading(
            self.labels[list(chosen)],
            [self.sides[row] for row in chosen],
            None if self.features is None else self.features[list(chosen)],
        )


def read_values(classifier: FindingClassifier | None, modality: str, values: Sequence[np.ndarray | str]) -> Reading:
    """Read findings from images (the classifier, at its thresholds) or texts (the rule labeler; an uncertain mention counts as positive).

    Raises:
        DataError: If images are to be read and there is no classifier.
    """
    if MODALITIES[modality].kind == "text":
        texts = [str(value) for value in values]
        return Reading(label_matrix(texts).astype(np.float32), [label_report(text) for text in texts])
    if classifier is None:
        raise DataError(
            f"{modality} images cannot be judged without a finding classifier",
            mend="name one (classifier=...), trained by eval/train_classifier.py",
        )
    probabilities, features = classifier.read([np.asarray(value) for value in values], modality)
    decided, targets, judged = (
        classifier.decide(probabilities, modality),
        classifier.config.targets,
        classifier.judged(modality),
    )
    labels = np.full((len(values), len(CHEXPERT_LABELS)), np.nan, np.float32)
    for column, label in enumerate(CHEXPERT_LABELS):
        if label in judged:
            labels[:, column] = decided[:, targets.index(label)]
    sided = [target for target in judged if "/" in target and target.split("/")[0] in judged]
    sides = [
        tuple(
            Finding(label=target.split("/")[0], side=target.split("/")[1])
            for target in sided
            if decided[row, targets.index(target)] and decided[row, targets.index(target.split("/")[0])]
        )
        for row in range(len(values))
    ]
    return Reading(labels, sides, features)


class HeldOut:
    """Held-out studies and all that is computed from them once.

    Attributes:
        studies: In dataset order.
        truth: float32 ``[N, 14]`` of 0, 1, NaN.
        truth_source: "labels" where the dataset tells them, else "reference report" (read by the rule labeler).
    """

    def __init__(self, dataset: StudyDataset, classifier: FindingClassifier | None) -> None:
        self.name, self.fingerprint, self.classifier = dataset.name, dataset.fingerprint, classifier
        self.studies: list[Study] = [dataset[index] for index in range(len(dataset))]
        self.patients = [study.patient_id for study in self.studies]
        told = np.stack([target_truth(study, CHEXPERT_LABELS) for study in self.studies])
        self.truth_source = "reference report" if np.isnan(told).all() else "labels"
        self.truth = (
            told if self.truth_source == "labels" else np.stack([_truth_from_report(study) for study in self.studies])
        )
        self._readings: dict[str, tuple[list[int], Reading]] = {}

    def __len__(self) -> int:
        return len(self.studies)

    @cached_property
    def findings(self) -> list[tuple[Finding, ...]]:
        """True findings of each study, with sides, where they are told."""
        if self.truth_source == "labels":
            return [tuple(study.findings) for study in self.studies]
        return [label_report(study.report or "") for study in self.studies]

    def having(self, modalities: Iterable[str]) -> list[int]:
        """Indices of the studies that hold all of the modalities."""
        wanted = set(modalities)
        return [index for index, study in enumerate(self.studies) if wanted <= set(study.contents)]

    def usable(self, direction: Direction) -> list[int]:
        """Indices of the studies that hold all prompts and targets of a direction.

        Raises:
            DataError: If there are fewer than 4.
        """
        rows = self.having(direction.prompts + direction.targets)
        if len(rows) < 4:
            raise DataError(
                f"{len(rows)} of {len(self)} studies hold all of {direction}",
                expected="at least 4",
                mend="choose other directions, or more studies",
            )
        return rows

    def values(self, modality: str, rows: Sequence[int]) -> list[np.ndarray | str]:
        """Real contents of some studies."""
        contents = [self.studies[row].contents[modality] for row in rows]
        return [value if isinstance(value, str) else eight_bit(np.asarray(value)) for value in contents]

    def reading(self, modality: str, rows: Sequence[int]) -> Reading:
        """What classifier or labeler read from the real contents: the ceiling. Computed once per modality."""
        if modality not in self._readings:
            everyone = self.having([modality])
            self._readings[modality] = everyone, read_values(self.classifier, modality, self.values(modality, everyone))
        everyone, reading = self._readings[modality]
        place = {row: position for position, row in enumerate(everyone)}
        return reading.rows([place[row] for row in rows])


def _truth_from_report(study: Study) -> np.ndarray:
    if not study.report:
        return np.full(len(CHEXPERT_LABELS), np.nan, np.float32)
    labels = labels_from_findings(label_report(study.report))
    return np.array(
        [{-1.0: np.nan}.get(labels.get(label, 0.0), labels.get(label, 0.0)) for label in CHEXPERT_LABELS], np.float32
    )


def derangements(patients: Sequence[str], num: int, seed: int) -> list[np.ndarray]:
    """Permutations that give every study the place of another *patient's* study.

    Patients are put in a random order, their studies side by side, and shifted in a circle by at least as many places as one patient has
    studies; every shift is another derangement.

    Args:
        patients: Patient of each of ``N`` studies.
        num: How many at most.
        seed: Of the order and the choice of shifts.

    Returns:
        int ``[N]`` each: study ``i`` is given ``permutation[i]``'s truth.

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
            mend="score more patients",
        )
    generator = numpy_generator("derangement", seed)
    order = np.argsort(generator.permutation(len(names))[cluster], kind="stable")
    shifts = generator.permutation(np.arange(largest, total - largest + 1))[:num]
    found = []
    for shift in shifts:
        permutation = np.empty(total, dtype=np.int64)
        permutation[order] = np.roll(order, -int(shift))
        found.append(permutation)
    return found
