"""Ratings of real against generated items: distributions, differences, rank tests, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medcodi.turing.statistics.detection import auc_statistic, mean_statistic
from medcodi.turing.statistics.resampling import Cases, Resampled, Statistic, jackknife


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Every reader's ratings of real items and of one other arm."""

    readers: Sequence[str]  # names, `R` of them
    values: np.ndarray  # float `[R, I]`, NaN where not answered
    other: np.ndarray  # bool `[I]`: True for the arm compared with real items (generated, autoencoded or mismatched)
    case: np.ndarray  # case of each item, `[I]`
    cases: Cases  # which items are drawn together

    @property
    def num(self) -> int:
        """Ratings."""
        return int(np.isfinite(self.values).sum())

    def paired_cases(self) -> list[str]:
        """Cases that have items in both arms."""
        return sorted(set(self.case[self.other]) & set(self.case[~self.other]))

    @property
    def is_paired(self) -> bool:
        """Whether the design is paired: at least four of five cases stand in both arms."""
        return len(self.paired_cases()) >= 0.8 * len(set(self.case)) > 0


def difference_statistic(ratings: Ratings) -> Statistic:
    """Each reader's mean rating of the other arm minus that of real items."""
    other, real = mean_statistic(ratings.values, ratings.other), mean_statistic(ratings.values, ~ratings.other)
    return lambda weights: other(weights) - real(weights)


def difference(ratings: Ratings) -> Resampled:
    """The difference in mean rating, other arm minus real."""
    return jackknife(difference_statistic(ratings), ratings.cases, num=ratings.num)


def superiority(ratings: Ratings) -> Resampled:
    """P(an item of the other arm is rated above a real one), ties half: the Mann-Whitney effect; 0.5 means no shift."""
    return jackknife(auc_statistic(ratings.values, ratings.other), ratings.cases, num=ratings.num)


def reader_rank_test(ratings: Ratings, reader: int) -> tuple[str, float]:
    """One reader's test: Wilcoxon's signed ranks in a paired design, else Mann-Whitney. Name and p-value."""
    return rank_test(ratings.values[reader], ratings)


def pooled_rank_test(ratings: Ratings) -> tuple[str, float]:
    """The same test on each item's mean over readers, so that the cases, not the answers, are counted.

    Each reader's own mean is taken out first: who rates few items high or low cannot shift an arm.
    """
    centred = ratings.values - np.nanmean(ratings.values, axis=1, keepdims=True)
    known = np.isfinite(centred)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(known, centred, 0.0).sum(0) / known.sum(0)
    return rank_test(np.round(means, 9), ratings)


def rank_test(values: np.ndarray, ratings: Ratings) -> tuple[str, float]:
    """Wilcoxon's signed-rank test over cases in both arms of a paired design, else the Mann-Whitney test; values float ``[I]``.

    Returns:
        Name of the test and two-sided p-value; NaN where there is nothing to compare.
    """
    known = np.isfinite(values)
    if ratings.is_paired:
        first, second = _by_case(values, ratings, ratings.other), _by_case(values, ratings, ~ratings.other)
        gap = np.round(np.asarray([first[c] - second[c] for c in ratings.paired_cases()]), 9)
        gap = gap[np.isfinite(gap)]
        if not gap.any():
            return "Wilcoxon signed-rank", 1.0 if gap.size else float("nan")
        return "Wilcoxon signed-rank", float(np.asarray(stats.wilcoxon(gap, method="asymptotic"))[1])
    other, real = values[known & ratings.other], values[known & ~ratings.other]
    if not (len(other) and len(real)):
        return "Mann-Whitney", float("nan")
    return "Mann-Whitney", float(stats.mannwhitneyu(other, real, method="asymptotic").pvalue)


def _by_case(values: np.ndarray, ratings: Ratings, arm: np.ndarray) -> dict[str, float]:
    return {c: float(np.mean(values[arm & (ratings.case == c)])) for c in ratings.paired_cases()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979); NaN stay NaN and are not counted."""
    from statsmodels.stats.multitest import multipletests

    known = [i for i, p in enumerate(p_values) if np.isfinite(p)]
    result = [float("nan")] * len(p_values)
    if known:
        corrected = np.asarray(multipletests([p_values[i] for i in known], method="holm")[1])
        for i, p in zip(known, corrected, strict=True):
            result[i] = float(p)
    return result


def distribution(values: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """How often each rating was given: int ``[highest - lowest + 1]``."""
    known = values[np.isfinite(values)].round().astype(int)
    return np.bincount(known - lowest, minlength=highest - lowest + 1)
