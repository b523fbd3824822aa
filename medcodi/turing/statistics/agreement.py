"""Agreement between readers: kappas (statsmodels), Krippendorff's alpha and intraclass correlations (ours), with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import fdtri

from medcodi.errors import DataError, MissingExtraError, one_of
from medcodi.randomness import numpy_generator
from medcodi.turing.statistics.intervals import LOG_DISTANCE, NEW_READERS, THESE_READERS, Estimate
from medcodi.turing.statistics.resampling import Cases, ReaderStatistic, jackknife

LEVELS = ("nominal", "ordinal", "interval", "ratio")


def inter_rater() -> Any:
    """The kappas of statsmodels, or a refusal that names the extra."""
    try:
        from statsmodels.stats import inter_rater
    except ImportError:
        raise MissingExtraError("statsmodels", extra="turing", needed_for="agreement between readers") from None
    return inter_rater


def cohen_kappa(
    first: np.ndarray, second: np.ndarray, cases: Cases, *, weights: str | None = None, level: float = 0.95
) -> Estimate:
    """Cohen's kappa of two readers (float ``[I]``, NaN missing): statsmodels' value, jackknife interval over cases.

    ``weights`` is None, ``linear`` or ``quadratic``.
    """
    categories = np.unique(np.concatenate([first, second]))
    categories = categories[np.isfinite(categories)]
    known = np.isfinite(first) & np.isfinite(second)
    if not known.any():
        return Estimate(value=float("nan"))
    # One-hot pair of answers of each item: a weighted sum over items is the contingency table of a resample.
    size = len(categories)
    rows, columns = np.searchsorted(categories, first[known]), np.searchsorted(categories, second[known])
    onehot = np.zeros((len(first), size**2))  # [I, K * K]
    onehot[np.flatnonzero(known), rows * size + columns] = 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(inter_rater().cohens_kappa(onehot.sum(0).reshape(size, size), wt=weights, return_results=False))
    gap = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(float)
    distance = {None: (gap > 0).astype(float), "linear": gap, "quadratic": gap**2}[weights]  # [K, K]

    def statistic(w: np.ndarray) -> np.ndarray:
        tables = (w @ onehot).reshape(len(w), size, size)  # [B, K, K]
        tables = tables / tables.sum((1, 2), keepdims=True)
        chance = tables.sum(2)[:, :, None] * tables.sum(1)[:, None, :]
        with np.errstate(invalid="ignore", divide="ignore"):
            return (1 - (tables * distance).sum((1, 2)) / (chance * distance).sum((1, 2)))[:, None]

    estimate = _interval(statistic, cases, int(known.sum()), level)
    assert np.isnan(value) or abs(estimate.value - value) < 1e-9, (estimate.value, value)
    return estimate


def _interval(statistic: ReaderStatistic, cases: Cases, num: int, level: float) -> Estimate:
    """Jackknife interval over cases for these readers, on the log(1 - x) scale, because agreement is at most 1."""
    return jackknife(statistic, cases, num=num).estimate(THESE_READERS, level=level, scale=LOG_DISTANCE)


def fleiss_kappa(values: np.ndarray, cases: Cases, *, level: float = 0.95) -> Estimate:
    """Fleiss' kappa over the items that every reader answered (float ``[R, I]``): statsmodels' value, jackknife over cases."""
    _, counts = _counts(values)
    complete = np.asarray(np.isfinite(values).all(axis=0))  # bool [I]
    num_readers = len(values)
    if not complete.any() or num_readers < 2:
        return Estimate(value=float("nan"))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(inter_rater().fleiss_kappa(counts[complete]))
    used = counts * complete[:, None]
    agreeing = (used**2).sum(1) - used.sum(1)

    def statistic(w: np.ndarray) -> np.ndarray:
        total = w @ complete
        observed = (w @ agreeing) / (total * num_readers * (num_readers - 1))
        shares = (w @ used) / (total * num_readers)[:, None]
        expected = (shares**2).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((observed - expected) / (1 - expected))[:, None]

    estimate = _interval(statistic, cases, int(complete.sum()), level)
    assert np.isnan(value) or abs(estimate.value - value) < 1e-9, (estimate.value, value)
    return estimate


def _counts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Categories ``[K]`` that occur, and how many readers gave each to each item: float ``[I, K]``."""
    categories = np.unique(values[np.isfinite(values)])
    return categories, np.stack([(values == category).sum(0) for category in categories], axis=1).astype(float)


def krippendorff_alpha(
    values: np.ndarray, *, metric: str = "nominal", cases: Cases | None = None, level: float = 0.95
) -> Estimate:
    """Krippendorff's alpha: any number of readers, missing answers allowed (Krippendorff 2011, "Computing Krippendorff's alpha").

    Args:
        values: float ``[R, I]``, NaN missing.
        metric: ``nominal``, ``ordinal``, ``interval`` or ``ratio``.
        cases: Cases, for a jackknife interval; None: no interval.
        level: Coverage.

    Returns:
        Alpha; NaN where it is undefined because all answers are alike.

    Raises:
        DataError: If no item has two answers, or for an unknown metric.
    """
    one_of("metric", metric, LEVELS, DataError)
    categories, counts = _counts(values)
    answered = counts.sum(1)
    pairable = answered >= 2
    if not pairable.any():
        raise DataError("no item has two answers", expected="items that several readers rated", fix="add readers")
    # Coincidence matrix of each item: ordered pairs of answers, weighted by 1 / (m - 1) for m answers.
    per_pair = np.where(pairable, 1 / np.maximum(answered - 1, 1), 0.0)
    coincidences = counts[:, :, None] * counts[:, None, :] * per_pair[:, None, None]  # [I, K, K]
    size = len(categories)
    coincidences[:, np.arange(size), np.arange(size)] -= counts * per_pair[:, None]
    flat = coincidences.reshape(len(counts), -1)
    distance = _DISTANCES[metric]

    def statistic(w: np.ndarray) -> np.ndarray:
        observed = (w @ flat).reshape(len(w), size, size)  # [B, K, K]
        totals = observed.sum(2)
        num = totals.sum(1)
        gap = distance(categories, totals)
        disagreement = (observed * gap).sum((1, 2))
        expected = (totals[:, :, None] * totals[:, None, :] * gap).sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):  # alpha = 1 - D_observed / D_expected
            return (1 - (num - 1) * disagreement / expected)[:, None]

    num = int(answered[pairable].sum())
    if cases is None:
        return Estimate(value=float(statistic(np.ones((1, len(counts))))[0, 0]), num=num)
    return _interval(statistic, cases, num, level)


def _ordinal(categories: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Squared number of answers between two categories, each end counted half: ``[B, K, K]``."""
    up_to = np.cumsum(totals, axis=1) - totals / 2
    return (up_to[:, :, None] - up_to[:, None, :]) ** 2


def _ratio(categories: np.ndarray, totals: np.ndarray) -> np.ndarray:
    sums = np.add.outer(categories, categories)
    return (np.subtract.outer(categories, categories) / np.where(sums == 0, 1, sums)) ** 2


_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nominal": lambda categories, totals: 1.0 - np.eye(len(categories)),
    "ordinal": _ordinal,
    "interval": lambda categories, totals: np.subtract.outer(categories, categories) ** 2,
    "ratio": _ratio,
}


# ---- intraclass correlations ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class MeanSquares:
    """Mean squares of a two-way analysis of variance, items × readers, one answer each."""

    between: float  # items, df n - 1
    within: float  # within items, df n (k - 1)
    readers: float  # readers, df k - 1
    error: float  # residual, df (n - 1)(k - 1)
    n: int  # number of items
    k: int  # number of readers


def mean_squares(table: np.ndarray) -> MeanSquares:
    """Mean squares of a complete ``table``, float ``[n, k]`` (items × readers).

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


def icc(values: np.ndarray, *, level: float = 0.95) -> dict[str, Estimate]:
    """The six intraclass correlations of Shrout & Fleiss (1979), over the items that every reader answered (float ``[R, I]``).

    Returns:
        ``1,1  2,1  3,1  1,k  2,k  3,k`` -> value with interval.
        (1,·): other readers for each item; (2,·): readers drawn from a population; (3,·): these readers.
        Case 2 has a generalized interval; Satterthwaite's F covers too little with three readers (benchmarks/turing_statistics.py).
    """
    table = values[:, np.isfinite(values).all(0)].T  # [n, k]
    m = mean_squares(table)
    n, k = m.n, m.k
    upper = 0.5 + level / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        case_1 = _from_ratio(m.between / m.within, n - 1, n * (k - 1), k, upper) if m.within > 0 else (1.0,) * 3
        case_3 = _from_ratio(m.between / m.error, n - 1, (n - 1) * (k - 1), k, upper) if m.error > 0 else (1.0,) * 3
    # Case 2 alone depends on the mean square of the readers.
    case_2 = _case_2(m, _spread_of_covariances(table), level)
    result = {}
    for name, (value, low, high), population in (
        ("1", case_1, NEW_READERS),
        ("2", case_2, NEW_READERS),
        ("3", case_3, THESE_READERS),
    ):
        method = "generalized interval" if name == "2" else "F (Shrout & Fleiss 1979)"
        # "k": the mean of k readers, by the Spearman-Brown formula.
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
    """4,096 draws each of χ²/df for items, readers and error, and of the standard normal; the same for tables of one size."""
    generator = numpy_generator("turing icc", n, k)
    items, readers, error = (generator.chisquare(df, 4096) / df for df in (n - 1, k - 1, (n - 1) * (k - 1)))
    return items, readers, error, generator.standard_normal(4096)


def _spread_of_covariances(table: np.ndarray) -> float:
    """Variance over pairs of readers of their covariance over items, minus twice the part due to new items; 0 for two readers.

    The analysis of variance assumes that all pairs agree equally. On a short scale they do not, because a severe reader's ratings pile up at
    one end. The factor of two widens intervals only for differences that new items hardly explain.
    """
    n, k = table.shape
    # Products of centred ratings of each pair of readers: their mean over items is the covariance.
    centred = table - table.mean(0)
    products = np.stack([centred[:, i] * centred[:, j] for i in range(k) for j in range(i)], axis=1)
    num_pairs = products.shape[1]
    if num_pairs < 2:
        return 0.0
    noise = np.cov(products, rowvar=False) / n
    from_items = (np.trace(noise) - noise.sum() / num_pairs) / (num_pairs - 1)
    return max(float((products.sum(0) / (n - 1)).var(ddof=1) - 2 * from_items), 0.0)


def _case_2(m: MeanSquares, spread: float, level: float) -> tuple[float, float, float]:
    """ICC(2,1) with a generalized confidence interval (Weerahandi 1993): quantiles over mean squares compatible with the data.

    ``spread`` over the number of readers is added to the variance of the covariance of two readers.
    """
    value = _icc_2_1(m.between, m.readers, m.error, m.n, m.k)
    items, readers, error, normal = _draws(m.n, m.k)
    shift = normal * np.sqrt(spread / m.k)
    between, rest = m.between / items + (m.k - 1) * shift, np.maximum(m.error / error - shift, 0.0)
    possible = _icc_2_1(between, m.readers / readers, rest, m.n, m.k, readers_at_least=0.0)
    low, high = np.nanquantile(possible, [(1 - level) / 2, (1 + level) / 2])
    return float(value), float(low), float(high)


def _icc_2_1(between: Any, readers: Any, error: Any, n: int, k: int, readers_at_least: float = -np.inf) -> Any:
    """ICC(2,1) of mean squares (numbers or arrays); NaN where nothing varies."""
    items = (between - error) / k
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(items, items + np.maximum((readers - error) / n, readers_at_least) + error)
