"""Intraclass correlations of ratings (Shrout & Fleiss 1979), with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import fdtri

from medcodi.errors import DataError
from medcodi.randomness import numpy_generator
from medcodi.turing.statistics.intervals import NEW_READERS, THESE_READERS, Estimate


@dataclass(frozen=True, kw_only=True)
class MeanSquares:
    """Two-way analysis of variance of items × readers, one answer each."""

    between: float  # of the items, `n - 1` degrees of freedom
    within: float  # within items, `n (k - 1)`
    readers: float  # of the readers, `k - 1`
    error: float  # what is left, `(n - 1)(k - 1)`
    n: int  # items
    k: int  # readers


def mean_squares(table: np.ndarray) -> MeanSquares:
    """Mean squares of ``table`` float ``[n, k]`` (items × readers), complete.

    Raises:
        DataError: With fewer than 2 items or readers.
    """
    n, k = table.shape
    if n < 2 or k < 2:
        raise DataError(
            f"an intraclass correlation of {n} items and {k} readers",
            expected="at least 2 of each",
            fix="let more readers finish, or read more items",
        )
    grand = table.mean()
    items, readers = table.mean(1) - grand, table.mean(0) - grand
    residual = table - grand - items[:, None] - readers
    within = ((table - table.mean(1, keepdims=True)) ** 2).sum() / (n * (k - 1))
    return MeanSquares(
        between=float(k * (items**2).sum() / (n - 1)),
        within=float(within),
        readers=float(n * (readers**2).sum() / (k - 1)),
        error=float((residual**2).sum() / ((n - 1) * (k - 1))),
        n=n,
        k=k,
    )


def icc(values: np.ndarray, *, satterthwaite: bool = False, level: float = 0.95) -> dict[str, Estimate]:
    """The six intraclass correlations of Shrout & Fleiss (1979), over the items that every reader answered.

    Args:
        values: float ``[R, I]``, NaN missing.
        satterthwaite: Case 2 by Satterthwaite's F (McGraw & Wong 1996), as other programs give it. With three readers it covers less than it
            says; the generalized interval, the default, holds better (benchmarks/turing_statistics.py).
        level: Coverage.

    Returns:
        ``"1,1" "2,1" "3,1" "1,k" "2,k" "3,k"`` -> value with interval.
        (1,·): other readers for each item; (2,·): readers drawn from a population; (3,·): these readers.
    """
    table = values[:, np.isfinite(values).all(0)].T
    m = mean_squares(table)
    n, k = m.n, m.k
    upper = 0.5 + level / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        one = _from_ratio(m.between / m.within, n - 1, n * (k - 1), k, upper) if m.within > 0 else (1.0, 1.0, 1.0)
        three = _from_ratio(m.between / m.error, n - 1, (n - 1) * (k - 1), k, upper) if m.error > 0 else (1.0,) * 3
    two = _case_two(m, upper) if satterthwaite else _case_two_generalized(m, _spread_of_covariances(table), level)
    result = {}
    for name, (value, low, high), population in (
        ("1", one, NEW_READERS),
        ("2", two, NEW_READERS),
        ("3", three, THESE_READERS),
    ):
        method = "F (Shrout & Fleiss 1979)"
        if name == "2":
            method = "Satterthwaite F (McGraw & Wong 1996)" if satterthwaite else "generalized interval"
        for suffix, change in (("1", lambda x: x), ("k", lambda x: k * x / (1 + (k - 1) * x))):
            result[f"{name},{suffix}"] = Estimate(
                value=change(value),
                low=change(low),
                high=change(high),
                level=level,
                population=population,
                method=method,
                num=n * k,
            )
    return result


def _from_ratio(ratio: float, df1: int, df2: int, k: int, upper: float) -> tuple[float, float, float]:
    """(F - 1) / (F + k - 1) of the F ratio and of its confidence bounds."""
    low, high = ratio / fdtri(df1, df2, upper), ratio * fdtri(df2, df1, upper)
    value, below, above = ((f - 1) / (f + k - 1) for f in (ratio, low, high))
    return value, below, above


@lru_cache(maxsize=64)
def _draws(n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """4,096 draws each of χ²/df for items, readers and error, and standard normal ones; the same for every table of that size."""
    generator = numpy_generator("turing icc", n, k)
    items, readers, error = (generator.chisquare(df, 4096) / df for df in (n - 1, k - 1, (n - 1) * (k - 1)))
    return items, readers, error, generator.standard_normal(4096)


def _spread_of_covariances(table: np.ndarray) -> float:
    """Variance between pairs of readers of their covariance over items, less twice what new items alone give; 0 for two readers.

    The analysis of variance takes all pairs to agree equally. On a short scale they do not: a severe reader's ratings pile up at one end. Twice: only
    what new items hardly explain shall widen an interval.
    """
    n, k = table.shape
    centred = table - table.mean(0)
    products = np.stack([centred[:, i] * centred[:, j] for i in range(k) for j in range(i)], axis=1)
    num_pairs = products.shape[1]
    if num_pairs < 2:
        return 0.0
    noise = np.cov(products, rowvar=False) / n
    from_items = (np.trace(noise) - noise.sum() / num_pairs) / (num_pairs - 1)
    return max(float((products.sum(0) / (n - 1)).var(ddof=1) - 2 * from_items), 0.0)


def _case_two_generalized(m: MeanSquares, spread: float, level: float) -> tuple[float, float, float]:
    """ICC(2,1) and a generalized confidence interval (Weerahandi 1993): quantiles over mean squares that the data leave possible.

    ``spread`` (see above), over the number of readers, is added to what the covariance of two readers may be.
    """
    value = _two(m.between, m.readers, m.error, m.n, m.k)
    items, readers, error, normal = _draws(m.n, m.k)
    shift = normal * np.sqrt(spread / m.k)
    between, rest = m.between / items + (m.k - 1) * shift, np.maximum(m.error / error - shift, 0.0)
    possible = _two(between, m.readers / readers, rest, m.n, m.k, readers_at_least=0.0)
    low, high = np.nanquantile(possible, [(1 - level) / 2, (1 + level) / 2])
    return float(value), float(low), float(high)


def _two(between: Any, readers: Any, error: Any, n: int, k: int, readers_at_least: float = -np.inf) -> Any:
    """ICC(2,1) of mean squares, numbers or arrays of them; NaN where nothing varies."""
    items = (between - error) / k
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(items, items + np.maximum((readers - error) / n, readers_at_least) + error)


def _case_two(m: MeanSquares, upper: float) -> tuple[float, float, float]:
    """ICC(2,1) and its bounds; Satterthwaite's degrees of freedom for readers and error together."""
    n, k = m.n, m.k
    value = float(_two(m.between, m.readers, m.error, n, k))
    if not np.isfinite(value):
        return float("nan"), float("nan"), float("nan")
    a = k * value / (n * (1 - value)) if value < 1 else np.inf
    if not np.isfinite(a):
        return 1.0, 1.0, 1.0
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    top = (a * m.readers + b * m.error) ** 2
    bottom = (a * m.readers) ** 2 / (k - 1) + (b * m.error) ** 2 / ((n - 1) * (k - 1))
    df = top / bottom if bottom > 0 else 1.0
    f_low, f_high = fdtri(n - 1, df, upper), fdtri(df, n - 1, upper)
    spread = k * m.readers + (k * n - k - n) * m.error
    low = n * (m.between - f_low * m.error) / (f_low * spread + n * m.between)
    high = n * (f_high * m.between - m.error) / (spread + n * f_high * m.between)
    return float(value), float(low), float(high)
