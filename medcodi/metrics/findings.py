"""Scores of findings: F1, precision, recall per finding, micro and macro; AUROC and AUPRC; sides; thresholds; calibration.

Arrays are ``[N, K]``: N studies, K findings; NaN in the truth means unknown, and the pair is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Statistic, in_blocks, known_mean, weighted_mean
from medcodi.study import Finding

UncertainPolicy = Literal["positive", "negative", "ignore"]


def resolve_uncertain(labels: np.ndarray, policy: UncertainPolicy) -> np.ndarray:
    """Labels with -1 (uncertain) turned into 1, 0 or NaN by ``policy``; 1, 0 and NaN stay."""
    replacement = {"positive": 1.0, "negative": 0.0, "ignore": np.nan}[policy]
    labels = np.asarray(labels, dtype=np.float64)
    return np.where(labels == -1, replacement, labels)


@dataclass(frozen=True)
class Confusion:
    """Per study and finding: true positives, false positives, false negatives, as 0 or 1, each ``[N, K]``."""

    tp: np.ndarray  # [N, K], as the others
    fp: np.ndarray
    fn: np.ndarray

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray) -> Confusion:
        """From 0/1 arrays ``[N, K]``; NaN in ``truth`` leaves the pair out; anything else is refused."""
        truth, predicted = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
        if truth.shape != predicted.shape or truth.ndim != 2:
            raise DataError(
                f"truth of shape {truth.shape} and predictions of shape {predicted.shape}", expected="[N, K] both"
            )
        # NaN leaves a pair out of all three counts.
        known = ~np.isnan(truth)
        for name, array in (("truth", truth[known]), ("predictions", predicted[known])):
            if not np.isin(array, (0.0, 1.0)).all():
                raise DataError(
                    f"{name} hold values other than 0 and 1", fix="resolve uncertain labels first (resolve_uncertain)"
                )
        return cls(
            known * (truth == 1) * (predicted == 1),
            known * (truth == 0) * (predicted == 1),
            known * (truth == 1) * (predicted == 0),
        )

    @classmethod
    def mean(cls, many: Sequence[Confusion]) -> Confusion:
        """Expected confusion over several equally likely pairings (fractions of studies)."""
        return cls(
            *(
                np.asarray(np.mean([getattr(confusion, name) for confusion in many], axis=0, dtype=np.float64))
                for name in ("tp", "fp", "fn")
            )
        )

    def weighted(self, weights: np.ndarray) -> Confusion:
        """Every count of a finding times its weight, ``[K]``: the micro F1 of it is weighted."""
        return Confusion(*(getattr(self, name) * np.asarray(weights, np.float64) for name in ("tp", "fp", "fn")))

    def f1(self, weights: np.ndarray) -> np.ndarray:
        """F1 per finding: weights ``[R, N]`` -> ``[R, K]``; NaN where a finding neither occurs nor is predicted."""
        tp, errors = weights @ self.tp, weights @ (self.fp + self.fn)
        with np.errstate(invalid="ignore", divide="ignore"):
            return 2 * tp / (2 * tp + errors)

    def macro_f1(self) -> Statistic:
        """Mean F1 over the findings that occur or are predicted."""
        return lambda weights: known_mean(self.f1(weights), 1)

    def micro_f1(self) -> Statistic:
        """F1 of all pairs of study and finding together."""
        pooled = Confusion(self.tp.sum(1, keepdims=True), self.fp.sum(1, keepdims=True), self.fn.sum(1, keepdims=True))
        return lambda weights: pooled.f1(weights)[:, 0]


@dataclass(frozen=True)
class FindingScores:
    """Scores of a set of studies."""

    # Name -> f1, precision, recall, positives (in the truth), predicted (positives), studies (with known truth).
    per_finding: dict[str, dict[str, float]]
    micro_f1: float  # over all pairs of study and finding
    macro_f1: float  # mean over the findings that occur or are predicted


def finding_scores(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> FindingScores:
    """F1, precision and recall per finding, micro and macro; ``truth`` is ``[N, K]`` of 0, 1, NaN, ``predicted`` of 0, 1."""
    confusion, ones = Confusion.of(truth, predicted), np.ones((1, len(truth)))
    tp, fp, fn = (getattr(confusion, name).sum(0) for name in ("tp", "fp", "fn"))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall, f1 = tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn)
    known = (~np.isnan(np.asarray(truth, dtype=np.float64))).sum(0)
    per_finding = {
        name: {
            "f1": float(f1[k]),
            "precision": float(precision[k]),
            "recall": float(recall[k]),
            "positives": int(tp[k] + fn[k]),
            "predicted": int(tp[k] + fp[k]),
            "studies": int(known[k]),
        }
        for k, name in enumerate(names)
    }
    return FindingScores(per_finding, float(confusion.micro_f1()(ones)[0]), float(confusion.macro_f1()(ones)[0]))


def auroc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve of one finding, ``[N]``; NaN where only one class occurs."""
    return float(auroc_statistic(truth, scores)(np.ones((1, len(truth))))[0])


# ---- areas under curves, as functions of study weights for bootstrap intervals ---------------------------------------
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


def _over_thresholds(
    truth: np.ndarray, scores: np.ndarray, area: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Statistic:
    """``area`` of true and false positives at each threshold, ``[R, T]`` both; NaN without a known truth."""
    rows, positive, ends = _ranked(truth, scores)

    def statistic(weights: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.full(len(weights), np.nan)
        # True and false positives at each threshold, [R, T].
        ranked = np.asarray(weights, np.float64)[:, rows]
        hits = (ranked * positive).cumsum(1)[:, ends]
        alarms = ranked.cumsum(1)[:, ends] - hits
        with np.errstate(invalid="ignore", divide="ignore"):
            return area(hits, alarms)

    return in_blocks(statistic)


def auroc_statistic(truth: np.ndarray, scores: np.ndarray) -> Statistic:
    """Area under the ROC curve: weights ``[R, N]`` -> ``[R]``; NaN where a resample has one class only.

    ``truth`` is ``[N]`` of 0, 1, NaN; of ``scores``, ``[N]``, higher means more likely present, and equal ones count half.
    """

    def area(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        # Trapezoids: the step in false positives times the mean height of true positives.
        steps, heights = np.diff(alarms, axis=1, prepend=0.0), (hits + np.pad(hits, ((0, 0), (1, 0)))[:, :-1]) / 2
        return (steps * heights).sum(1) / (hits[:, -1] * alarms[:, -1])

    return _over_thresholds(truth, scores, area)


def auprc_statistic(truth: np.ndarray, scores: np.ndarray) -> Statistic:
    """Average precision, the area under the step-wise precision-recall curve: weights ``[R, N]`` -> ``[R]``.

    NaN where a resample has no positive. Chance gives the prevalence.
    """

    def area(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        # Rectangles: the step in true positives times the precision at its end.
        precision = np.where(hits + alarms > 0, hits / (hits + alarms), 0.0)
        return (np.diff(hits, axis=1, prepend=0.0) * precision).sum(1) / hits[:, -1]

    return _over_thresholds(truth, scores, area)


def mean_statistic(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over findings; one that is NaN in a resample is left out of it."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        if not statistics:
            return np.full(len(weights), np.nan)
        return known_mean(np.stack([finding(weights) for finding in statistics]), 0)  # [K, R] -> [R]

    return statistic


# ---- thresholds and sides --------------------------------------------------------------------------------------------
def best_thresholds(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Thresholds with the highest F1, to be chosen on validation studies: float64 ``[K]``, 0.5 where no positive occurs."""
    chosen = np.full(truth.shape[1], 0.5)
    for k in range(truth.shape[1]):
        # F1 at every cut of the ranked scores: 2 TP / (predicted + positives).
        known = ~np.isnan(truth[:, k])
        order = np.argsort(-scores[known, k], kind="stable")
        positive, ranked = truth[known, k][order], scores[known, k][order]
        if not positive.sum():
            continue
        tp = np.cumsum(positive)
        f1 = 2 * tp / (np.arange(1, len(tp) + 1) + positive.sum())
        f1[:-1][ranked[:-1] == ranked[1:]] = -1  # a threshold cannot part equal scores
        best = int(np.argmax(f1))
        # The threshold is half-way to the next lower score.
        below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
        chosen[k] = (ranked[best] + below) / 2
    return chosen


def sides_of(findings: Sequence[Finding], label: str) -> frozenset[str]:
    """Sides on which a label is positive: a subset of ``{"left", "right"}``; empty where absent or without a side."""
    sides = {finding.side for finding in findings if finding.label == label and finding.state == "positive"}
    return frozenset(side for side in ("left", "right") if side in sides or "bilateral" in sides)


# ---- calibration of probabilities ------------------------------------------------------------------------------------
NUM_BINS = 10  # of equal width, as in Guo et al. (2017); the last one holds 1


def _bins(probabilities: np.ndarray) -> np.ndarray:
    """Index of each probability's bin: int ``[N]``."""
    return np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)


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


def calibration_error_statistic(truth: np.ndarray, probabilities: np.ndarray) -> Statistic:
    """Expected calibration error: weights ``[R, N]`` -> ``[R]``.

    The mean over studies of the distance, in the bin of their probability, between mean probability and share of positives.
    """
    known = _known(truth, probabilities)
    member = (_bins(probabilities)[:, None] == np.arange(NUM_BINS)) & known[:, None]  # [N, B]
    gaps = np.where(known, probabilities - np.nan_to_num(truth), 0.0)[:, None] * member  # [N, B]

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.abs(weights @ gaps).sum(1) / (weights @ known)

    return in_blocks(statistic)


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """The bins that hold a study with known truth: mean ``predicted``, ``observed`` share of positives, ``studies``."""
    known = _known(truth, probabilities)
    bins = _bins(probabilities)
    rows = [known & (bins == number) for number in range(NUM_BINS)]
    return [
        {"predicted": float(probabilities[row].mean()), "observed": float(truth[row].mean()), "studies": int(row.sum())}
        for row in rows
        if row.any()
    ]
