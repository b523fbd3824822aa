"""Calibration equals scikit-learn's and cases by hand, and is a function of study weights."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from medcodi.errors import DataError
from medcodi.metrics.findings import brier_statistic, calibration_error_statistic, reliability


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    probabilities = rng.random(300)
    return (rng.random(300) < probabilities**2).astype(float), probabilities


def test_brier_and_calibration_error_are_scikit_learns(sample: tuple[np.ndarray, np.ndarray]) -> None:
    truth, probabilities = sample
    ones = np.ones((1, 300))
    assert brier_statistic(truth, probabilities)(ones)[0] == pytest.approx(
        brier_score_loss(truth, probabilities), abs=1e-9
    )
    observed, predicted = calibration_curve(truth, probabilities, n_bins=10, strategy="uniform")
    counts = np.histogram(probabilities, bins=np.linspace(0, 1, 11))[0]
    expected = (np.abs(observed - predicted) * counts).sum() / 300
    assert calibration_error_statistic(truth, probabilities)(ones)[0] == pytest.approx(expected, abs=1e-9)
    bins = reliability(truth, probabilities)
    assert [row["observed"] for row in bins] == pytest.approx(list(observed)) and sum(
        row["studies"] for row in bins
    ) == 300


def test_weights_are_copies_and_unknown_truth_does_not_count(sample: tuple[np.ndarray, np.ndarray]) -> None:
    truth, probabilities = sample[0][:40].copy(), sample[1][:40]
    weights = np.random.default_rng(1).integers(0, 4, 40).astype(float)
    rows = np.repeat(np.arange(40), weights.astype(int))
    for statistic in (brier_statistic, calibration_error_statistic):
        copied = statistic(truth[rows], probabilities[rows])(np.ones((1, len(rows))))[0]
        assert statistic(truth, probabilities)(weights[None])[0] == pytest.approx(copied)
        unknown = truth.copy()
        unknown[:5] = np.nan
        assert statistic(unknown, probabilities)(np.ones((1, 40)))[0] == pytest.approx(
            statistic(truth[5:], probabilities[5:])(np.ones((1, 35)))[0]
        )


def test_probabilities_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="out of range"):
        brier_statistic(np.array([0.0, 1.0]), np.array([0.2, 1.2]))
