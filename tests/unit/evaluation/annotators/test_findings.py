"""Findings from probabilities: thresholds, what is judged, sides that need their label."""

from __future__ import annotations

import numpy as np

from medcodi.evaluation.annotators.findings import findings_from_probabilities
from medcodi.study import CHEXPERT_LABELS, Finding

TARGETS = ("Cardiomegaly", "Pleural Effusion", "Pleural Effusion/left", "Pleural Effusion/right", "Edema")
THRESHOLDS = np.array([0.5, 0.4, 0.5, 0.5, 0.5])


def column(label: str) -> int:
    return CHEXPERT_LABELS.index(label)


def test_a_probability_at_the_threshold_is_present_and_what_is_not_judged_is_unknown() -> None:
    probabilities = np.array([[0.5, 0.39, 0.9, 0.1, 0.9], [0.49, 0.4, 0.9, 0.1, 0.9]])
    found = findings_from_probabilities(TARGETS, THRESHOLDS, TARGETS[:4], probabilities)
    assert found.labels.dtype == np.float32 and found.labels.shape == (2, 14)
    assert found.labels[:, column("Cardiomegaly")].tolist() == [1, 0]
    assert found.labels[:, column("Pleural Effusion")].tolist() == [0, 1]
    assert np.isnan(found.labels[:, column("Edema")]).all()  # above its threshold, but not judged
    assert np.isnan(found.labels).sum() == 2 * 12


def test_a_side_counts_only_with_its_label() -> None:
    probabilities = np.array([[0, 0.1, 0.9, 0.0, 0], [0, 0.9, 0.9, 0.6, 0], [0, 0.9, 0.0, 0.0, 0]])
    found = findings_from_probabilities(TARGETS, THRESHOLDS, TARGETS, probabilities)
    effusion = [Finding(label="Pleural Effusion", side=side) for side in ("left", "right")]
    assert found.sides == [(), tuple(effusion), ()]
    without_label = findings_from_probabilities(TARGETS, THRESHOLDS, ("Pleural Effusion/left",), probabilities)
    assert without_label.sides == [(), (), ()]


def test_rows_are_chosen_together() -> None:
    found = findings_from_probabilities(
        TARGETS, THRESHOLDS, TARGETS, np.array([[0, 0.9, 0.9, 0, 0], [0.9, 0, 0, 0, 0]])
    )
    second = found.rows([1])
    np.testing.assert_array_equal(second.labels, found.labels[1:])
    assert second.sides == [found.sides[1]]
