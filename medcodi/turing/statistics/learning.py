"""Learning over trials: does accuracy rise, and time fall, from the first trial to the last?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcodi.turing.statistics.detection import mean_statistic
from medcodi.turing.statistics.intervals import THESE_READERS, Estimate
from medcodi.turing.statistics.resampling import Cases, Resampled, Statistic, jackknife


def progress(order: np.ndarray) -> np.ndarray:
    """Where in the task each answer stands: 0 the reader's first trial, 1 the last; ``order`` float ``[R, I]``, NaN not answered."""
    first, last = np.nanmin(order, axis=1, keepdims=True), np.nanmax(order, axis=1, keepdims=True)
    return (order - first) / np.where(last > first, last - first, 1.0)


def trend_statistic(values: np.ndarray, when: np.ndarray) -> Statistic:
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
class Block:
    """Accuracy and time within a stretch of trials."""

    first: int  # first trial of the block (1 is the reader's first)
    last: int  # last trial
    accuracy: Estimate  # mean over readers, these readers
    median_seconds: float  # median time of an answer; NaN where no times are known


def blocks(
    correct: np.ndarray,
    seconds: np.ndarray,
    order: np.ndarray,
    cases: Cases,
    *,
    num_blocks: int = 5,
    level: float = 0.95,
) -> list[Block]:
    """Accuracy in ``num_blocks`` stretches of equal length, each with a Wilson interval at the effective number of answers."""
    when = progress(order)
    total = int(np.isfinite(order).sum(1).max())
    edges = np.linspace(0, 1, num_blocks + 1)
    result = []
    for b in range(num_blocks):
        inside = (when >= edges[b]) & ((when < edges[b + 1]) | (b == num_blocks - 1))
        values = np.where(inside, correct, np.nan)
        if not np.isfinite(values).any():
            continue
        times = seconds[inside & np.isfinite(seconds)]
        resampled = jackknife(mean_statistic(values), cases, num=int(np.isfinite(values).sum()))
        result.append(
            Block(
                first=round(edges[b] * total) + 1,
                last=round(edges[b + 1] * total),
                accuracy=resampled.share(THESE_READERS, level=level),
                median_seconds=float(np.median(times)) if len(times) else float("nan"),
            )
        )
    return result
