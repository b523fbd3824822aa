"""AUROC, AUPRC, F1 per finding: scikit-learn's numbers, with and without weights, ties, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.metrics import finding_scores
from medcodi.metrics.classification import (
    auprc_statistic,
    auroc_statistic,
    mean_statistic,
)

metrics = pytest.importorskip("sklearn.metrics")
GENERATOR = np.random.default_rng(0)
NAMES = ["Edema", "Pneumothorax", "Pneumothorax/left"]
TRUTH = (GENERATOR.random((200, 3)) < [0.3, 0.1, 0.05]).astype(float)
SCORES = np.round(GENERATOR.random((200, 3)) + 0.4 * TRUTH, 1)  # rounded: many are equal
TRUTH[GENERATOR.random((200, 3)) < 0.1] = np.nan


def test_agrees_with_scikit_learn() -> None:
    ones = np.ones((1, 200))
    for k, name in enumerate(NAMES):
        known = ~np.isnan(TRUTH[:, k])
        truth, scores = TRUTH[known, k], SCORES[known, k]
        for ours, peer in (
            (auroc_statistic, metrics.roc_auc_score),
            (auprc_statistic, metrics.average_precision_score),
        ):
            assert ours(TRUTH[:, k], SCORES[:, k])(ones)[0] == pytest.approx(peer(truth, scores), rel=1e-9), name


def test_decisions_of_scores_agree_with_scikit_learn() -> None:
    thresholds = np.array([0.7, 0.9, 1.0])
    found = finding_scores(TRUTH, (thresholds <= SCORES).astype(float), NAMES)
    for k, name in enumerate(NAMES):
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
        assert found.per_finding[name] == pytest.approx(expected, rel=1e-9), name
    every = ~np.isnan(TRUTH)
    assert found.micro_f1 == pytest.approx(metrics.f1_score(TRUTH[every], (thresholds <= SCORES)[every]), rel=1e-9)
    assert found.macro_f1 == pytest.approx(np.mean([found.per_finding[name]["f1"] for name in NAMES]), rel=1e-9)


def test_weights_are_scikit_learns_sample_weights() -> None:
    weights = GENERATOR.integers(0, 4, size=(5, 200)).astype(float)
    truth, told = TRUTH[:, 0], SCORES[:, 0]
    known = ~np.isnan(truth)
    for statistic, peer in (
        (auroc_statistic(truth, told), metrics.roc_auc_score),
        (auprc_statistic(truth, told), metrics.average_precision_score),
    ):
        expected = [peer(truth[known], told[known], sample_weight=row[known]) for row in weights]
        np.testing.assert_allclose(statistic(weights), expected, rtol=1e-9)


def test_one_class_is_nan_and_leaves_the_mean_alone() -> None:
    truth, told = np.array([[1.0, 0], [0, 0], [1, 0]]), np.array([[0.9, 0.1], [0.2, 0.5], [0.7, 0.3]])
    assert np.isnan(auroc_statistic(truth[:, 1], told[:, 1])(np.ones((1, 3)))).all()
    both = mean_statistic([auroc_statistic(truth[:, k], told[:, k]) for k in range(2)])
    assert both(np.ones((1, 3)))[0] == 1.0
    assert np.isnan(auroc_statistic(np.full(3, np.nan), told[:, 0])(np.ones((2, 3)))).all()


@pytest.mark.parametrize(
    ("truth", "told", "message"),
    [
        (np.array([1.0, -1]), np.zeros(2), "other than 0, 1 and NaN"),
        (np.array([1.0, 0]), np.array([np.nan, 0.1]), "1 scores are NaN"),
        (np.zeros(2), np.zeros(3), r"\(2,\) and scores of shape \(3,\)"),
        (np.zeros((2, 1)), np.zeros((2, 1)), r"\[N\] both"),
    ],
)
def test_refusals(truth: np.ndarray, told: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        auroc_statistic(truth, told)
