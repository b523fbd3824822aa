"""AUROC, AUPRC and F1 per finding (and side), and as functions of study weights, for bootstrap intervals.

Arrays are ``[N, K]``: N studies, K findings such as ``"Pneumothorax"`` or ``"Pneumothorax/left"``; NaN in the truth means unknown,
and the pair is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Statistic, in_blocks, known_mean
from medcodi.metrics.findings import finding_scores


def _ranked(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Known pairs by falling score: their rows, their truth (bool), and where a run of equal scores ends."""
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
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    ends = np.append(np.flatnonzero(np.diff(scores[rows])), len(rows) - 1) if len(rows) else np.zeros(0, int)
    return rows, truth[rows] == 1, ends


def auroc_statistic(truth: np.ndarray, scores: np.ndarray) -> Statistic:
    """Area under the ROC curve of one finding: weights ``[R, N]`` -> ``[R]``; NaN where a resample has one class only.

    Args:
        truth: ``[N]`` of 0, 1, NaN (left out).
        scores: ``[N]``, higher means more likely present; equal scores count half.
    """
    rows, positive, ends = _ranked(truth, scores)

    def statistic(weights: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.full(len(weights), np.nan)
        hits, alarms = _cumulative(np.asarray(weights, np.float64)[:, rows], positive, ends)
        rates = np.diff(alarms, axis=1, prepend=0.0), (hits + np.pad(hits, ((0, 0), (1, 0)))[:, :-1]) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return (rates[0] * rates[1]).sum(1) / (hits[:, -1] * alarms[:, -1])

    return in_blocks(statistic)


def auprc_statistic(truth: np.ndarray, scores: np.ndarray) -> Statistic:
    """Average precision (area under the step-wise precision-recall curve) of one finding: weights ``[R, N]`` -> ``[R]``.

    NaN where a resample has no positive. Its floor is the prevalence.
    """
    rows, positive, ends = _ranked(truth, scores)

    def statistic(weights: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.full(len(weights), np.nan)
        hits, alarms = _cumulative(np.asarray(weights, np.float64)[:, rows], positive, ends)
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
        values = np.stack([one(weights) for one in statistics]) if statistics else np.full((1, len(weights)), np.nan)
        return known_mean(values, 0)

    return statistic


@dataclass(frozen=True)
class ClassificationScores:
    """How well findings are told by scores and thresholds.

    Attributes:
        per_finding: Name -> auroc, auprc, f1, precision, recall, positives, predicted, studies; NaN where it cannot be told.
        macro_auroc, macro_auprc: Means over the findings with both classes.
        macro_f1, micro_f1: As in :class:`medcodi.metrics.findings.FindingScores`.
    """

    per_finding: dict[str, dict[str, float]]
    macro_auroc: float
    macro_auprc: float
    macro_f1: float
    micro_f1: float


def classification_scores(
    truth: np.ndarray, scores: np.ndarray, names: Sequence[str], thresholds: np.ndarray | float = 0.5
) -> ClassificationScores:
    """AUROC, AUPRC and F1 of every finding.

    Args:
        truth: ``[N, K]`` of 0, 1, NaN (left out).
        scores: ``[N, K]``, higher means more likely present.
        names: The ``K`` findings.
        thresholds: ``[K]``, or one for all: from which score on a finding counts as present.

    Raises:
        DataError: If shapes do not fit, the truth is not 0, 1 or NaN, or a score is not finite.
    """
    truth, scores = np.asarray(truth, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 2 or truth.shape[1] != len(names):
        raise DataError(
            f"truth of shape {truth.shape}, scores of shape {scores.shape}, {len(names)} names", expected="[N, K], K"
        )
    ones = np.ones((1, len(truth)))
    areas = {
        name: {
            "auroc": float(auroc_statistic(truth[:, k], scores[:, k])(ones)[0]),
            "auprc": float(auprc_statistic(truth[:, k], scores[:, k])(ones)[0]),
        }
        for k, name in enumerate(names)
    }
    counted = finding_scores(truth, (scores >= thresholds).astype(np.float64), names)
    both = [name for name in names if not np.isnan(areas[name]["auroc"])]
    macro = {
        area: float(np.mean([areas[name][area] for name in both])) if both else float("nan")
        for area in ("auroc", "auprc")
    }
    return ClassificationScores(
        {name: {**areas[name], **counted.per_finding[name]} for name in names},
        macro["auroc"],
        macro["auprc"],
        counted.macro_f1,
        counted.micro_f1,
    )
