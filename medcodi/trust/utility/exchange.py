"""The exchange rate: the number of new real studies that one added study is worth, by inverting the oracle's curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medcodi.metrics.bootstrap import Interval

FEW = 0.95  # share of resamples that must give a rate


@dataclass(frozen=True)
class OracleCurve:
    """Performance with 0, a, b ... new real studies, on all studies and on every resample."""

    num_base: int  # real studies at 0
    num_new: np.ndarray  # [P], rising, the first is 0
    values: np.ndarray  # [P, 1 + R]; the first column is of all studies

    def equivalent(self, values: np.ndarray) -> np.ndarray:
        """New real studies that reach a performance: ``[1 + R]`` -> ``[1 + R]``; NaN where the curve does not rise.

        The curve is made monotone, and is linear in the logarithm of the number of real studies. A performance below its start is
        worth a negative number: that of the real studies which could have been left out. One above its end counts as the end.
        """
        totals = np.log(self.num_base + self.num_new + (self.num_base == 0))
        result = np.full(len(values), np.nan)
        for column, value in enumerate(values):
            curve = monotone(self.values[:, column])
            rise = curve[-1] - curve[0]
            if np.isnan(value) or not rise > 1e-12:
                continue
            if value < curve[0]:
                total = totals[0] + (value - curve[0]) * (totals[-1] - totals[0]) / rise
            else:
                # Points of one height are one point, the middle of them.
                heights, inverse = np.unique(curve, return_inverse=True)
                places = np.bincount(inverse, weights=totals) / np.bincount(inverse)
                places[0] = totals[0]
                total = np.interp(value, heights, places)
            result[column] = np.exp(total) - self.num_base - (self.num_base == 0)
        return result


def monotone(values: np.ndarray) -> np.ndarray:
    """The nearest sequence that does not fall, by pooling adjacent violators: ``[P]`` -> ``[P]``; NaN stays NaN."""
    blocks: list[list[float]] = []  # mean, length
    for value in values:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.concatenate([np.full(int(length), mean) for mean, length in blocks])


def exchange_rate(curve: OracleCurve, num_added: int, values: np.ndarray) -> dict[str, Any]:
    """The rate of an arm with its interval, JSON-ready.

    Args:
        curve: Of the oracle arms of the same base.
        num_added: Studies added in the arm.
        values: Performance of the arm, ``[1 + R]``.

    Returns:
        ``value``, ``low``, ``high`` (null where the curve does not rise in more than 5 % of the resamples), ``num_added``,
        ``beyond`` (whether the performance is above the curve's end, so that the rate is at least the value) and ``resolved``, the
        share of the resamples that gave a rate.
    """
    rates = curve.equivalent(values) / num_added
    resolved = float((~np.isnan(rates[1:])).mean()) if len(rates) > 1 else 0.0
    interval = Interval(float(rates[0]), float("nan"), float("nan"))
    if resolved >= FEW and not np.isnan(rates[0]):
        low, high = np.nanquantile(rates[1:], [0.025, 0.975])
        interval = Interval(float(rates[0]), float(low), float(high))
    beyond = bool(values[0] >= monotone(curve.values[:, 0])[-1])
    return {**interval.to_dict(), "num_added": num_added, "beyond": beyond, "resolved": resolved}
