"""Estimates with intervals: Wilson's, Wilson's at an effective number of answers, and t intervals on a scale that respects the bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

SINGLE_READER = "this reader, new cases"
THESE_READERS = "these readers, new cases"
NEW_READERS = "new readers, new cases"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its interval."""

    value: float  # NaN where the answers give none
    low: float = float("nan")  # lower bound; NaN without an interval
    high: float = float("nan")  # upper bound
    se: float = float("nan")  # standard error on the scale of the value; NaN if the method has none
    df: float = float("inf")  # degrees of freedom of the standard error; infinite for normal theory
    level: float = 0.95  # coverage of the interval
    population: str = THESE_READERS  # SINGLE_READER, THESE_READERS or NEW_READERS
    method: str = ""  # method of the interval, in words
    num: int = 0  # number of answers (or units)

    def within(self, lowest: float, highest: float) -> Estimate:
        """The same estimate, its interval cut to what is possible: a difference of ratings from 1 to 5 lies within ±4."""
        low, high = (float(np.clip(bound, lowest, highest)) for bound in (self.low, self.high))  # NaN stays NaN
        return replace(self, low=low, high=high)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that are not finite become None."""
        numbers = {name: _plain(getattr(self, name)) for name in ("value", "low", "high", "se", "df", "level")}
        return numbers | {"population": self.population, "method": self.method, "num": int(self.num)}


def _plain(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t; of the normal distribution where ``df`` is infinite."""
    return float(ndtri(probability) if np.isinf(df) else stdtrit(df, probability))


def t_survival(statistic: float, df: float) -> float:
    """P(T > statistic) of Student's t with ``df`` degrees of freedom (normal where infinite)."""
    return float(stdtr(df if np.isfinite(df) else 1e12, -statistic))


def wilson(successes: float, num: float, *, level: float = 0.95, quantile: float | None = None) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927).

    Args:
        successes: Number of successes; may be fractional, as an effective number is.
        num: Number of trials, likewise.
        level: Coverage.
        quantile: Used instead of the normal quantile of ``level``, e.g. one of Student's t.

    Returns:
        Lower and upper bound; NaN without trials.
    """
    if not num > 0:
        return float("nan"), float("nan")
    q = float(ndtri(0.5 + level / 2)) if quantile is None else quantile
    share = successes / num
    centre = (share + q * q / (2 * num)) / (1 + q * q / num)
    half = q / (1 + q * q / num) * np.sqrt(share * (1 - share) / num + q * q / (4 * num * num))
    low = 0.0 if successes <= 0 else float(centre - half)
    high = 1.0 if successes >= num else float(centre + half)
    return max(low, 0.0), min(high, 1.0)


def wilson_estimate(successes: float, num: int, *, level: float = 0.95) -> Estimate:
    """A proportion of one reader's answers with Wilson's interval."""
    low, high = wilson(successes, num, level=level)
    value = successes / num if num else float("nan")
    se = float(np.sqrt(value * (1 - value) / num)) if num else float("nan")
    return Estimate(
        value=value, low=low, high=high, se=se, level=level, population=SINGLE_READER, method="Wilson", num=num
    )


def share_interval(
    value: float, variance: float, df: float, num_units: float, *, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a share in [0, 1] whose variance is known from resampling.

    It is Wilson's, with the number of independent answers that would have that variance, and Student's quantile (after Korn &
    Graubard 1998).

    Args:
        value: The share: an accuracy, an area under a curve, a probability of superiority.
        variance: Its variance.
        df: Degrees of freedom of the variance.
        num_units: Independent units: the effective number if the variance is 0, or the share 0 or 1.
        level: Coverage.
    """
    if np.isnan(value):
        return float("nan"), float("nan")
    spread = value * (1 - value)
    effective = spread / variance if variance > 0 and spread > 0 else float(num_units)
    return wilson(value * effective, effective, level=level, quantile=t_quantile(0.5 + level / 2, max(df, 1.0)))


@dataclass(frozen=True)
class Scale:
    """Scale on which an interval is symmetric."""

    name: str
    forward: Callable[[float], float]
    backward: Callable[[float], float]
    slope: Callable[[float], float]  # derivative of ``forward``


IDENTITY = Scale("plain scale", lambda x: x, lambda y: y, lambda x: 1.0)
LOG_DISTANCE = Scale("log(1 - x) scale", lambda x: -np.log1p(-x), lambda y: -np.expm1(-y), lambda x: 1 / (1 - x))


def t_interval(
    value: float, variance: float, df: float, *, level: float = 0.95, scale: Scale = IDENTITY
) -> tuple[float, float]:
    """``value ± t · se`` on ``scale``, brought back; NaN where value or variance is missing, or the scale ends at the value."""
    if not (np.isfinite(value) and np.isfinite(variance)):
        return float("nan"), float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = scale.slope(np.float64(value))
        centre = scale.forward(np.float64(value))
    if not (np.isfinite(centre) and np.isfinite(slope)):
        return float("nan"), float("nan")
    half = t_quantile(0.5 + level / 2, max(df, 1.0)) * np.sqrt(variance) * slope
    return float(scale.backward(centre - half)), float(scale.backward(centre + half))
