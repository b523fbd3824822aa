"""Consistency of a reader over a session: the same answer to a repeated item, and learning from the first trial to the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcodi.turing.statistics.agreement import cohen_kappa
from medcodi.turing.statistics.detection import mean_statistic
from medcodi.turing.statistics.intervals import THESE_READERS, Estimate, wilson_estimate
from medcodi.turing.statistics.resampling import Cases, ReaderStatistic, Resampled, jackknife

# ---- repeated items ------------------------------------------------------------------------------------------------------
MIN_CASES = 15  # repeated cases needed for an interval over all readers
NUM_BLOCKS = 5  # of trials, in the chart of learning


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """First and second answers to the same items."""

    readers: Sequence[str]
    first: np.ndarray  # float [R, P], NaN where missing
    second: np.ndarray  # float [R, P]
    case: Sequence[str]  # [P], case of each repeated item
    arm: Sequence[str]  # [P], arm of each repeated item

    @property
    def same(self) -> np.ndarray:
        """1 where both answers agree, 0 where not, NaN where one is missing."""
        return np.where(self._known, (self.first == self.second).astype(float), np.nan)

    @property
    def _known(self) -> np.ndarray:
        return np.isfinite(self.first) & np.isfinite(self.second)

    @property
    def num(self) -> int:
        """Number of pairs of answers."""
        return int(self._known.sum())


def reader_repeats(repeats: Repeats, *, level: float = 0.95) -> list[Estimate]:
    """Each reader's share of equal answers, with Wilson's interval."""
    rows = [row[np.isfinite(row)] for row in repeats.same]
    return [wilson_estimate(float(row.sum()), len(row), level=level) for row in rows]


def pooled_repeats(repeats: Repeats, *, ordered: bool, level: float = 0.95) -> dict[str, Any]:
    """Over all readers: share of equal answers, kappa of first against second answers, standard deviation within a reader.

    Args:
        repeats: The pairs.
        ordered: Ratings: kappa is weighted quadratically, and the standard deviation (of one answer, from the difference of two) given.
        level: Coverage.

    Returns:
        "same", "kappa" (estimates; without interval below 15 repeated cases), and "within_sd" (float or None).
    """
    weights = "quadratic" if ordered else None
    flat = (repeats.first.ravel(), repeats.second.ravel())
    num_readers = len(repeats.first)
    gap = (repeats.first - repeats.second)[repeats._known]
    within = float(np.sqrt((gap**2).mean() / 2)) if ordered and len(gap) else None
    # Too few cases for an interval over cases: values only.
    if len(set(repeats.case)) < MIN_CASES:
        same = Estimate(value=float(np.nanmean(repeats.same)) if repeats.num else float("nan"), num=repeats.num)
        alone = Cases(np.arange(len(flat[0])), np.zeros(len(flat[0]), dtype=int))
        kappa = cohen_kappa(*flat, alone, weights=weights) if len(flat[0]) > 1 else Estimate(value=float("nan"))
        return {"same": same, "kappa": Estimate(value=kappa.value, num=kappa.num), "within_sd": within}
    # One list of answers of all readers, whose cases are resampled together.
    cases = Cases.of(repeats.case, repeats.arm)
    together = Cases(np.tile(cases.unit, num_readers), cases.stratum)
    same = jackknife(mean_statistic(repeats.same), cases, num=repeats.num).share(THESE_READERS, level=level)
    return {"same": same, "kappa": cohen_kappa(*flat, together, weights=weights, level=level), "within_sd": within}


# ---- learning ------------------------------------------------------------------------------------------------------------
def progress(order: np.ndarray) -> np.ndarray:
    """Position of each answer, from 0 (the reader's first trial) to 1 (the last); ``order`` float ``[R, I]``, NaN not answered."""
    first, last = np.nanmin(order, axis=1, keepdims=True), np.nanmax(order, axis=1, keepdims=True)
    return (order - first) / np.where(last > first, last - first, 1.0)


def trend_statistic(values: np.ndarray, when: np.ndarray) -> ReaderStatistic:
    """Each reader's least-squares change of ``values`` from the first to the last trial; both float ``[R, I]``, NaN missing."""
    known = np.isfinite(values) & np.isfinite(when)
    x, y, k = np.where(known, when, 0.0), np.where(known, values, 0.0), known.astype(float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            num = weights @ k.T
            mean_x, mean_y = weights @ x.T / num, weights @ y.T / num
            spread = weights @ (x * x).T / num - mean_x**2
            return np.where(spread > 1e-12, (weights @ (x * y).T / num - mean_x * mean_y) / spread, np.nan)

    return statistic


def trend(values: np.ndarray, order: np.ndarray, cases: Cases) -> Resampled:
    """Change from the first to the last trial of every reader, by a straight line."""
    return jackknife(trend_statistic(values, progress(order)), cases, num=int(np.isfinite(values).sum()))


@dataclass(frozen=True, kw_only=True)
class TrialBlock:
    """Accuracy and time within a block of trials."""

    first: int  # first trial of the block, from 1
    last: int  # last trial
    accuracy: Estimate  # mean over these readers
    median_seconds: float  # median time of an answer; NaN if unknown


def blocks(
    correct: np.ndarray,
    seconds: np.ndarray,
    order: np.ndarray,
    cases: Cases,
    *,
    level: float = 0.95,
) -> list[TrialBlock]:
    """Accuracy in five blocks of equal length, each with Wilson's interval at the effective number of answers."""
    when = progress(order)
    total = int(np.isfinite(order).sum(1).max())
    edges = np.linspace(0, 1, NUM_BLOCKS + 1)
    result = []
    for b in range(NUM_BLOCKS):
        inside = (when >= edges[b]) & ((when < edges[b + 1]) | (b == NUM_BLOCKS - 1))
        values = np.where(inside, correct, np.nan)
        if not np.isfinite(values).any():
            continue
        times = seconds[inside & np.isfinite(seconds)]
        resampled = jackknife(mean_statistic(values), cases, num=int(np.isfinite(values).sum()))
        result.append(
            TrialBlock(
                first=round(edges[b] * total) + 1,
                last=round(edges[b + 1] * total),
                accuracy=resampled.share(THESE_READERS, level=level),
                median_seconds=float(np.median(times)) if len(times) else float("nan"),
            )
        )
    return result
