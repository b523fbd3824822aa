"""Finding scores: scikit-learn's numbers, hand-computed ones, unknown truth, thresholds, sides."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.metrics import auroc, best_thresholds, finding_scores
from medcodi.metrics.findings import Confusion, resolve_uncertain, sides_of
from medcodi.study import Finding

NAMES = ("a", "b", "c")


def test_agrees_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 2, (80, 3)).astype(float), generator.integers(0, 2, (80, 3)).astype(float)
    scores = finding_scores(truth, predicted, NAMES)
    assert scores.micro_f1 == pytest.approx(sklearn.f1_score(truth, predicted, average="micro"), rel=1e-12)
    assert scores.macro_f1 == pytest.approx(sklearn.f1_score(truth, predicted, average="macro"), rel=1e-12)
    for k, name in enumerate(NAMES):
        assert scores.per_finding[name]["precision"] == pytest.approx(
            sklearn.precision_score(truth[:, k], predicted[:, k])
        )
        assert scores.per_finding[name]["recall"] == pytest.approx(sklearn.recall_score(truth[:, k], predicted[:, k]))


def test_by_hand_with_unknown_truth() -> None:
    truth = np.array([[1, np.nan], [1, 1], [0, 0], [0, np.nan]])
    predicted = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], dtype=float)
    scores = finding_scores(truth, predicted, ("x", "y"))
    assert scores.per_finding["x"] == {
        "f1": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "positives": 2,
        "predicted": 2,
        "studies": 4,
    }
    assert scores.per_finding["y"]["f1"] == 1.0 and scores.per_finding["y"]["studies"] == 2
    assert scores.micro_f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert scores.macro_f1 == 0.75


def test_a_finding_that_neither_occurs_nor_is_read_does_not_count() -> None:
    assert finding_scores(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), ("x", "y")).macro_f1 == 1.0


def test_weights_mean_repetition() -> None:
    truth, predicted = np.array([[1.0], [0.0], [1.0]]), np.array([[1.0], [1.0], [0.0]])
    weighted = Confusion.of(truth, predicted).macro_f1()(np.array([[3.0, 0.0, 1.0]]))[0]
    assert weighted == finding_scores(truth[[0, 0, 0, 2]], predicted[[0, 0, 0, 2]], ("x",)).macro_f1


def test_uncertain_policies() -> None:
    labels = np.array([1.0, 0.0, -1.0, np.nan])
    np.testing.assert_array_equal(resolve_uncertain(labels, "positive"), [1, 0, 1, np.nan])
    np.testing.assert_array_equal(resolve_uncertain(labels, "negative"), [1, 0, 0, np.nan])
    np.testing.assert_array_equal(resolve_uncertain(labels, "ignore"), [1, 0, np.nan, np.nan])


def test_unresolved_labels_are_refused() -> None:
    with pytest.raises(DataError, match="resolve uncertain labels"):
        finding_scores(np.array([[-1.0]]), np.array([[1.0]]), ("x",))


def test_auroc_leaves_unknown_out_and_needs_two_classes() -> None:
    assert auroc(np.array([0, 1, np.nan, 1]), np.array([0.1, 0.9, 0.0, 0.8])) == 1.0
    assert np.isnan(auroc(np.array([1.0, 1.0]), np.array([0.1, 0.9])))


def test_best_threshold_parts_the_classes_and_never_equal_scores() -> None:
    truth = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    scores = np.array([[0.1, 0.5], [0.2, 0.5], [0.7, 0.5], [0.9, 0.5]])
    thresholds = best_thresholds(truth, scores)
    assert 0.2 < thresholds[0] < 0.7
    assert thresholds[1] < 0.5  # all or none: all is better


def test_sides() -> None:
    left, right, both = (Finding(label="Pneumothorax", side=side) for side in ("left", "right", "bilateral"))
    assert sides_of([left], "Pneumothorax") == {"left"}
    assert sides_of([left, right], "Pneumothorax") == sides_of([both], "Pneumothorax") == {"left", "right"}
    absent = Finding(label="Pneumothorax", side="left", state="negative")
    no_side = Finding(label="Pneumothorax")
    assert sides_of([absent, no_side], "Pneumothorax") == sides_of([left], "Edema") == frozenset()
