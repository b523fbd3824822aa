"""AUROC and AUPRC of a finding as functions of study weights, for bootstrap intervals.

NaN in the truth means unknown; such a study is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Statistic, in_blocks, known_mean


def _ranked(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Known studies by falling score: their rows, their truth (bool), and the last position of each run of equal scores."""
    truth, scores = np.asarray(truth, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 1:
        raise DataError(f"truth of shape {truth.shape} and scores of shape {scores.shape}", expected="[N] both")
    rows = np.flatnonzero(~np.isnan(truth))
    if not np.isin(truth[rows], (0.0, 1.0)).all():
        raise DataError("truth holds values other than 0, 1 and NaN", fix="resolve uncertain labels first")
    if not np.isfinite(scores[rows]).all():
        raise DataError(
            f"{int((~np.isfinite(scores[rows])).sum())} scores are NaN or infinite", expected="finite scores"
        )
    # A threshold cannot part equal scores, so only the end of each run is a point of the curve.
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    ends = np.append(np.flatnonzero(np.diff(scores[rows])), len(rows) - 1) if len(rows) else np.zeros(0, int)
    return rows, truth[rows] == 1, ends


def auroc_statistic(truth: np.ndarray, scores: np.ndarray) -> Statistic:
    """Area under the ROC curve: weights ``[R, N]`` -> ``[R]``; NaN where a resample has one class only.

    ``truth`` is ``[N]`` of 0, 1, NaN; of ``scores``, ``[N]``, higher means more likely present, and equal ones count half.
    """
    rows, positive, ends = _ranked(truth, scores)

    def statistic(weights: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.full(len(weights), np.nan)
        hits, alarms = _cumulative(np.asarray(weights, np.float64)[:, rows], positive, ends)
        # Trapezoids: the step in false positives times the mean height of true positives.
        steps, heights = np.diff(alarms, axis=1, prepend=0.0), (hits + np.pad(hits, ((0, 0), (1, 0)))[:, :-1]) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return (steps * heights).sum(1) / (hits[:, -1] * alarms[:, -1])

    return in_blocks(statistic)


def auprc_statistic(truth: np.ndarray, scores: np.ndarray) -> Statistic:
    """Average precision, the area under the step-wise precision-recall curve: weights ``[R, N]`` -> ``[R]``.

    NaN where a resample has no positive. Chance gives the prevalence.
    """
    rows, positive, ends = _ranked(truth, scores)

    def statistic(weights: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.full(len(weights), np.nan)
        hits, alarms = _cumulative(np.asarray(weights, np.float64)[:, rows], positive, ends)
        # Rectangles: the step in true positives times the precision at its end.
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(hits + alarms > 0, hits / (hits + alarms), 0.0)
            return (np.diff(hits, axis=1, prepend=0.0) * precision).sum(1) / hits[:, -1]

    return in_blocks(statistic)


def _cumulative(weights: np.ndarray, positive: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at each threshold: ``[R, T]`` both."""
    hits = (weights * positive).cumsum(1)[:, ends]
    return hits, weights.cumsum(1)[:, ends] - hits


def mean_statistic(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over findings; one that is NaN in a resample is left out of it."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        # [K, R] -> [R]
        values = (
            np.stack([finding(weights) for finding in statistics]) if statistics else np.full((1, len(weights)), np.nan)
        )
        return known_mean(values, 0)

    return statistic
