"""Calibration of probabilities, as functions of study weights for bootstrap intervals: the Brier score, and expected calibration error."""

from __future__ import annotations

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Statistic, in_blocks, weighted_mean

NUM_BINS = 10  # of equal width, as in Guo et al. (2017)


def _known(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Known truth, as bool ``[N]``; refused where the arrays are not 0, 1, NaN and probabilities."""
    if truth.shape != probabilities.shape or truth.ndim != 1:
        raise DataError(
            f"truth of shape {truth.shape} and probabilities of shape {probabilities.shape}", expected="[N] both"
        )
    known = ~np.isnan(truth)
    if not np.isin(truth[known], (0.0, 1.0)).all() or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise DataError(
            "truth or probabilities are out of range", expected="truth of 0, 1, NaN, probabilities from 0 to 1"
        )
    return known


def brier_statistic(truth: np.ndarray, probabilities: np.ndarray) -> Statistic:
    """Mean squared difference of probability and truth: weights ``[R, N]`` -> ``[R]``; ``truth`` ``[N]`` of 0, 1, NaN."""
    _known(truth, probabilities)
    return weighted_mean((probabilities - truth) ** 2)  # NaN where the truth is unknown


def calibration_error_statistic(truth: np.ndarray, probabilities: np.ndarray, num_bins: int = NUM_BINS) -> Statistic:
    """Expected calibration error: weights ``[R, N]`` -> ``[R]``.

    The mean over studies of the distance, in the bin of their probability, between mean probability and share of positives; bins are
    of equal width, and the last one holds 1.
    """
    known = _known(truth, probabilities)
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    member = (bins[:, None] == np.arange(num_bins)) & known[:, None]  # [N, B]
    gaps = np.where(known, probabilities - np.nan_to_num(truth), 0.0)[:, None] * member  # [N, B]

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.abs(weights @ gaps).sum(1) / (weights @ known)

    return in_blocks(statistic)


def reliability(truth: np.ndarray, probabilities: np.ndarray, num_bins: int = NUM_BINS) -> list[dict[str, float]]:
    """The bins that hold a study with known truth: mean ``predicted``, ``observed`` share of positives, ``studies``."""
    known = _known(truth, probabilities)
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    rows = [known & (bins == number) for number in range(num_bins)]
    return [
        {"predicted": float(probabilities[row].mean()), "observed": float(truth[row].mean()), "studies": int(row.sum())}
        for row in rows
        if row.any()
    ]
