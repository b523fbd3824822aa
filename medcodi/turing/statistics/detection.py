"""Real or generated: accuracy, sensitivity, specificity, d' and criterion, ROC from confidence; forced choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri
from scipy.stats import binomtest

from medcodi.turing.statistics.intervals import (
    NEW_READERS,
    SINGLE_READER,
    THESE_READERS,
    Estimate,
    t_interval,
    t_survival,
    wilson_estimate,
)
from medcodi.turing.statistics.resampling import Cases, ReaderStatistic, Resampled, jackknife


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Every reader's choices between real and generated."""

    readers: Sequence[str]  # [R]
    says_generated: np.ndarray  # float [R, I]: 1 called generated, 0 called real, NaN not answered
    confidence: np.ndarray  # float [R, I], NaN without a confidence
    generated: np.ndarray  # bool [I]
    cases: Cases

    @property
    def num(self) -> int:
        """Number of answers."""
        return int(np.isfinite(self.says_generated).sum())

    @property
    def scores(self) -> np.ndarray:
        """Signed confidence, float ``[R, I]``: -5 surely real ... 5 surely generated; without confidence -1 and 1."""
        sign = 2 * self.says_generated - 1
        return sign * np.where(np.isfinite(self.confidence), self.confidence, 1.0)

    @property
    def correct(self) -> np.ndarray:
        """1 right, 0 wrong, NaN not answered, float ``[R, I]``."""
        right = (self.says_generated == self.generated).astype(float)
        return np.where(np.isfinite(self.says_generated), right, np.nan)


def mean_statistic(values: np.ndarray, chosen: np.ndarray | None = None) -> ReaderStatistic:
    """Mean of each reader's answers among the items ``chosen`` (bool ``[I]``); NaN without any. ``values`` float ``[R, I]``."""
    known = np.isfinite(values) & (True if chosen is None else chosen)
    filled, counted = np.where(known, values, 0.0).T, known.astype(float).T

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ filled) / (weights @ counted)

    return statistic


def dprime_statistic(detection: Detection, *, criterion: bool = False) -> ReaderStatistic:
    """Each reader's d' (or criterion c) with the log-linear correction, from weighted counts (Hautus 1995)."""
    says, known = detection.says_generated, np.isfinite(detection.says_generated)
    filled = np.where(known, says, 0.0)
    arms = [(filled * arm, known * arm.astype(float)) for arm in (detection.generated, ~detection.generated)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        z = []
        for called, answered in arms:
            count = weights @ answered.T
            z.append(np.where(count > 0, ndtri((weights @ called.T + 0.5) / (count + 1)), np.nan))
        return -(z[0] + z[1]) / 2 if criterion else z[0] - z[1]

    return statistic


def auc_statistic(scores: np.ndarray, positive: np.ndarray) -> ReaderStatistic:
    """P(score of a positive item > of a negative one), ties half, for each reader: the area under the empirical ROC curve.

    ``scores`` are float ``[R, I]``, NaN where not answered; ``positive`` is bool ``[I]``.
    """
    wins, rows, columns = [], [], []
    for reader in scores:
        known = np.isfinite(reader)
        high, low = np.flatnonzero(known & positive), np.flatnonzero(known & ~positive)
        wins.append((np.sign(reader[high][:, None] - reader[low]) + 1) / 2)
        rows.append(high)
        columns.append(low)

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = []
        for win, high, low in zip(wins, rows, columns, strict=True):
            w_high, w_low = weights[:, high], weights[:, low]
            with np.errstate(invalid="ignore", divide="ignore"):
                total = np.einsum("bi,bi->b", w_high @ win, w_low)
                values.append(total / (w_high.sum(1) * w_low.sum(1)))
        return np.stack(values, axis=1)

    return statistic


def rates(detection: Detection) -> Mapping[str, ReaderStatistic]:
    """Shares of right answers: accuracy, balanced accuracy, sensitivity (generated called generated), specificity (real called real)."""
    sensitivity = mean_statistic(detection.correct, detection.generated)
    specificity = mean_statistic(detection.correct, ~detection.generated)
    return {
        "accuracy": mean_statistic(detection.correct),
        "balanced_accuracy": lambda weights: (sensitivity(weights) + specificity(weights)) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
    }


def both_populations(resampled: Resampled, *, share: bool = False, level: float = 0.95) -> tuple[Estimate, Estimate]:
    """The estimate for these readers, and for new readers."""
    make = resampled.share if share else resampled.estimate
    return make(THESE_READERS, level=level), make(NEW_READERS, level=level)


def reader_shares(detection: Detection, *, level: float = 0.95) -> list[dict[str, Estimate]]:
    """Each reader's accuracy, sensitivity and specificity with Wilson's interval."""
    rows = []
    for correct in detection.correct:
        chosen = {"accuracy": slice(None), "sensitivity": detection.generated, "specificity": ~detection.generated}
        row = {}
        for name, items in chosen.items():
            answered = correct[items][np.isfinite(correct[items])]
            row[name] = wilson_estimate(float(answered.sum()), len(answered), level=level)
        rows.append(row)
    return rows


def reader_dprime(detection: Detection, reader: int, *, level: float = 0.95) -> dict[str, Estimate]:
    """One reader's d' and criterion, normal interval with the delta-method variance (Gourevitch & Galanter 1967).

    Rates carry the log-linear correction, so that a reader without any miss has finite values and a variance.
    """
    # z of the corrected rate of each arm, and its variance p (1 - p) / (n phi(z)^2).
    z, variances, num = [], [], 0
    for arm in (detection.generated, ~detection.generated):
        answers = detection.says_generated[reader, arm]
        answers = answers[np.isfinite(answers)]
        count = len(answers)
        rate = (answers.sum() + 0.5) / (count + 1)
        density = np.exp(-(ndtri(rate) ** 2) / 2) / np.sqrt(2 * np.pi)
        z.append(ndtri(rate) if count else float("nan"))
        variances.append(rate * (1 - rate) / (count * density**2) if count else float("nan"))
        num += count
    result = {}
    for name, value, variance in (
        ("d_prime", z[0] - z[1], sum(variances)),
        ("criterion", -(z[0] + z[1]) / 2, sum(variances) / 4),
    ):
        low, high = t_interval(value, variance, np.inf, level=level)
        result[name] = Estimate(
            value=float(value),
            low=low,
            high=high,
            se=float(np.sqrt(variance)),
            level=level,
            population=SINGLE_READER,
            method="normal, delta-method variance",
            num=num,
        )
    return result


def roc_points(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Corners of the empirical ROC curve of one reader (or of answers pooled): float ``[P, 2]`` of (false, true) positive rates."""
    known = np.isfinite(scores)
    scores, positive = scores[known], positive[known]
    thresholds = np.unique(scores)[::-1]
    points = [(0.0, 0.0)]
    for threshold in thresholds:
        called = scores >= threshold
        points.append((float(called[~positive].mean()), float(called[positive].mean())))
    return np.asarray(points)


def pooled_roc(detection: Detection, *, level: float = 0.95) -> tuple[list[Estimate], tuple[Estimate, Estimate]]:
    """Area under the ROC curve from confidence: each reader's (jackknife over cases) and the mean, for both populations."""
    statistic = auc_statistic(detection.scores, detection.generated)
    resampled = jackknife(statistic, detection.cases, num=detection.num)
    whole = statistic(np.ones((1, len(detection.generated))))[0]
    singles, position = [], 0
    for value in whole:
        if not np.isfinite(value):
            singles.append(Estimate(value=float("nan"), population=SINGLE_READER))
            continue
        own = resampled.single(position).share(THESE_READERS, level=level)
        singles.append(replace(own, population=SINGLE_READER))
        position += 1
    return singles, both_populations(resampled, share=True, level=level)


def chance_test(correct: np.ndarray) -> float:
    """Exact two-sided binomial p-value of one reader's answers (float ``[I]``, NaN missing) against guessing."""
    answered = correct[np.isfinite(correct)]
    return float(binomtest(int(answered.sum()), len(answered), 0.5).pvalue) if len(answered) else float("nan")


def t_test(resampled: Resampled, null: float, population: str) -> float:
    """Two-sided p-value of the mean over readers against ``null``."""
    variance, df = resampled.variance(population)
    if not np.isfinite(variance):
        return float("nan")
    if variance <= 0:
        return 1.0 if resampled.mean == null else 0.0
    return 2 * t_survival(abs(resampled.mean - null) / float(np.sqrt(variance)), df)
