"""Finding scores and areas under curves: scikit-learn's numbers, hand-computed ones, weights, ties, unknown truth, thresholds, sides."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.metrics import auroc, best_thresholds, finding_scores
from medcodi.metrics.findings import (
    Confusion,
    auprc_statistic,
    auroc_statistic,
    mean_statistic,
    resolve_uncertain,
    sides_of,
)
from medcodi.study import Finding

NAMES = ("a", "b", "c")
GENERATOR = np.random.default_rng(0)
LABELS = ["Edema", "Pneumothorax", "Pneumothorax/left"]
TRUTH = (GENERATOR.random((200, 3)) < [0.3, 0.1, 0.05]).astype(float)
SCORES = np.round(GENERATOR.random((200, 3)) + 0.4 * TRUTH, 1)  # rounded: many are equal
TRUTH[GENERATOR.random((200, 3)) < 0.1] = np.nan


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


def test_areas_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    ones = np.ones((1, 200))
    for k, name in enumerate(LABELS):
        known = ~np.isnan(TRUTH[:, k])
        truth, scores = TRUTH[known, k], SCORES[known, k]
        for ours, peer in (
            (auroc_statistic, metrics.roc_auc_score),
            (auprc_statistic, metrics.average_precision_score),
        ):
            assert ours(TRUTH[:, k], SCORES[:, k])(ones)[0] == pytest.approx(peer(truth, scores), rel=1e-9), name


def test_decisions_of_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    thresholds = np.array([0.7, 0.9, 1.0])
    results = finding_scores(TRUTH, (thresholds <= SCORES).astype(float), LABELS)
    for k, name in enumerate(LABELS):
        known = ~np.isnan(TRUTH[:, k])
        truth, decided = TRUTH[known, k], SCORES[known, k] >= thresholds[k]
        expected = {
            "f1": metrics.f1_score(truth, decided),
            "precision": metrics.precision_score(truth, decided),
            "recall": metrics.recall_score(truth, decided),
            "positives": truth.sum(),
            "predicted": decided.sum(),
            "studies": known.sum(),
        }
        assert results.per_finding[name] == pytest.approx(expected, rel=1e-9), name
    every = ~np.isnan(TRUTH)
    assert results.micro_f1 == pytest.approx(metrics.f1_score(TRUTH[every], (thresholds <= SCORES)[every]), rel=1e-9)
    assert results.macro_f1 == pytest.approx(np.mean([results.per_finding[name]["f1"] for name in LABELS]), rel=1e-9)


def test_weights_are_scikit_learns_sample_weights() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    weights = GENERATOR.integers(0, 4, size=(5, 200)).astype(float)
    truth, scores = TRUTH[:, 0], SCORES[:, 0]
    known = ~np.isnan(truth)
    for statistic, peer in (
        (auroc_statistic(truth, scores), metrics.roc_auc_score),
        (auprc_statistic(truth, scores), metrics.average_precision_score),
    ):
        expected = [peer(truth[known], scores[known], sample_weight=row[known]) for row in weights]
        np.testing.assert_allclose(statistic(weights), expected, rtol=1e-9)


def test_one_class_is_nan_and_leaves_the_mean_alone() -> None:
    truth, scores = np.array([[1.0, 0], [0, 0], [1, 0]]), np.array([[0.9, 0.1], [0.2, 0.5], [0.7, 0.3]])
    assert np.isnan(auroc_statistic(truth[:, 1], scores[:, 1])(np.ones((1, 3)))).all()
    both = mean_statistic([auroc_statistic(truth[:, k], scores[:, k]) for k in range(2)])
    assert both(np.ones((1, 3)))[0] == 1.0
    assert np.isnan(auroc_statistic(np.full(3, np.nan), scores[:, 0])(np.ones((2, 3)))).all()


@pytest.mark.parametrize(
    ("truth", "scores", "message"),
    [
        (np.array([1.0, -1]), np.zeros(2), "other than 0, 1 and NaN"),
        (np.array([1.0, 0]), np.array([np.nan, 0.1]), "1 scores are NaN"),
        (np.zeros(2), np.zeros(3), r"\(2,\) and scores of shape \(3,\)"),
        (np.zeros((2, 1)), np.zeros((2, 1)), r"\[N\] both"),
    ],
)
def test_invalid_scores_are_refused(truth: np.ndarray, scores: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        auroc_statistic(truth, scores)
