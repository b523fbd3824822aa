"""Repeated items: does a reader give the same answer twice?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcodi.turing.statistics.agreement import cohen_kappa
from medcodi.turing.statistics.detection import mean_statistic
from medcodi.turing.statistics.intervals import THESE_READERS, Estimate, wilson_estimate
from medcodi.turing.statistics.resampling import Cases, jackknife

MIN_CASES = 15  # fewer repeated cases give no interval for all readers together


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """First and second answers to the same items."""

    readers: Sequence[str]  # names
    first: np.ndarray  # float `[R, P]`, NaN missing
    second: np.ndarray  # float `[R, P]`
    case: Sequence[str]  # case of each repeated item, `[P]`
    arm: Sequence[str]  # arm of each repeated item, `[P]`

    @property
    def same(self) -> np.ndarray:
        """1 where both answers agree, 0 where not, NaN where one is missing."""
        return np.where(self._known, (self.first == self.second).astype(float), np.nan)

    @property
    def _known(self) -> np.ndarray:
        return np.isfinite(self.first) & np.isfinite(self.second)

    @property
    def num(self) -> int:
        """Pairs of answers."""
        return int(self._known.sum())


def reader_repeats(repeats: Repeats, *, level: float = 0.95) -> list[Estimate]:
    """Each reader's share of equal answers, Wilson."""
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
    if len(set(repeats.case)) < MIN_CASES:
        same = Estimate(value=float(np.nanmean(repeats.same)) if repeats.num else float("nan"), num=repeats.num)
        alone = Cases(np.arange(len(flat[0])), np.zeros(len(flat[0]), dtype=int))
        kappa = cohen_kappa(*flat, alone, weights=weights) if len(flat[0]) > 1 else Estimate(value=float("nan"))
        return {"same": same, "kappa": Estimate(value=kappa.value, num=kappa.num), "within_sd": within}
    cases = Cases.of(repeats.case, repeats.arm)
    together = Cases(np.tile(cases.unit, num_readers), cases.stratum)
    same = jackknife(mean_statistic(repeats.same), cases, num=repeats.num).share(THESE_READERS, level=level)
    return {"same": same, "kappa": cohen_kappa(*flat, together, weights=weights, level=level), "within_sd": within}
