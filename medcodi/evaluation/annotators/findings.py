"""What was read of findings: labels and sides, from texts by rules or from images by probabilities and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.metrics.labeler import label_matrix, label_report
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS, Finding


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
        rows = list(chosen)
        return Reading(
            self.labels[rows],
            [self.sides[row] for row in rows],
            None if self.features is None else self.features[rows],
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
            fix="name one (classifier=...), trained by eval/train_classifier.py",
        )
    probabilities, features = classifier.read([np.asarray(value) for value in values], modality)
    thresholds = classifier.thresholds[classifier.view(modality)].cpu().numpy()
    targets = classifier.config.targets
    return reading_of_probabilities(targets, thresholds, classifier.judged(modality), probabilities, features)


def reading_of_probabilities(
    targets: Sequence[str],
    thresholds: np.ndarray,
    judged: Sequence[str],
    probabilities: np.ndarray,
    features: np.ndarray | None = None,
) -> Reading:
    """Labels and sides from probabilities.

    Args:
        targets: What each column tells: a label, or label/side.
        thresholds: ``[K]``: from which probability on a target counts as present.
        judged: Targets that can be told in this modality.
        probabilities: ``[N, K]``.
        features: Of the same contents, passed on.
    """
    decided, place = probabilities >= thresholds, {target: column for column, target in enumerate(targets)}
    labels = np.full((len(probabilities), len(CHEXPERT_LABELS)), np.nan, np.float32)
    for column, label in enumerate(CHEXPERT_LABELS):
        if label in judged:
            labels[:, column] = decided[:, place[label]]
    sided = [target.partition("/") for target in judged if "/" in target and target.partition("/")[0] in judged]
    sides = [
        tuple(
            Finding(label=label, side=side)
            for label, _, side in sided
            if row[place[f"{label}/{side}"]] and row[place[label]]
        )
        for row in decided
    ]
    return Reading(labels, sides, features)
