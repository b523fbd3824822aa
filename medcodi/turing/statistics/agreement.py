"""Agreement between readers: kappas (statsmodels) and Krippendorff's alpha (ours), with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medcodi.errors import DataError, MissingExtraError, one_of
from medcodi.turing.statistics.intervals import LOG_DISTANCE, THESE_READERS, Estimate
from medcodi.turing.statistics.resampling import Cases, Statistic, jackknife

LEVELS = ("nominal", "ordinal", "interval", "ratio")


def inter_rater() -> Any:
    """Statsmodels' module of kappas."""
    try:
        from statsmodels.stats import inter_rater
    except ImportError:
        raise MissingExtraError("statsmodels", extra="turing", needed_for="agreement between readers") from None
    return inter_rater


def contingency(first: np.ndarray, second: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Counts ``[K, K]`` of two readers' answers to the items that both answered."""
    known = np.isfinite(first) & np.isfinite(second)
    rows, columns = np.searchsorted(categories, first[known]), np.searchsorted(categories, second[known])
    table = np.zeros((len(categories), len(categories)))
    np.add.at(table, (rows, columns), 1)
    return table


def cohen_kappa(
    first: np.ndarray, second: np.ndarray, cases: Cases, *, weights: str | None = None, level: float = 0.95
) -> Estimate:
    """Cohen's kappa of two readers (float ``[I]``, NaN missing), statsmodels' value, jackknife interval over cases.

    Args:
        first: One reader's answers.
        second: The other's.
        cases: Which items are drawn together.
        weights: None, "linear" or "quadratic".
        level: Coverage.
    """
    categories = np.unique(np.concatenate([first, second]))
    categories = categories[np.isfinite(categories)]
    known = np.isfinite(first) & np.isfinite(second)
    if not known.any():
        return Estimate(value=float("nan"))
    table = contingency(first, second, categories)
    value = _kappa_value(table, weights)
    distance = _disagreement(len(categories), weights)
    rows, columns = np.searchsorted(categories, first[known]), np.searchsorted(categories, second[known])
    onehot = np.zeros((len(first), len(categories) ** 2))
    onehot[np.flatnonzero(known), rows * len(categories) + columns] = 1.0

    def statistic(w: np.ndarray) -> np.ndarray:
        tables = (w @ onehot).reshape(len(w), len(categories), len(categories))
        tables = tables / tables.sum((1, 2), keepdims=True)
        chance = tables.sum(2)[:, :, None] * tables.sum(1)[:, None, :]
        with np.errstate(invalid="ignore", divide="ignore"):
            return (1 - (tables * distance).sum((1, 2)) / (chance * distance).sum((1, 2)))[:, None]

    found = _interval(statistic, cases, int(known.sum()), level)
    assert np.isnan(value) or abs(found.value - value) < 1e-9, (found.value, value)
    return found


def _kappa_value(table: np.ndarray, weights: str | None) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(inter_rater().cohens_kappa(table, wt=weights, return_results=False))


def _disagreement(num: int, weights: str | None) -> np.ndarray:
    gap = np.abs(np.subtract.outer(np.arange(num), np.arange(num))).astype(float)
    return (gap > 0).astype(float) if weights is None else gap if weights == "linear" else gap**2


def _interval(statistic: Statistic, cases: Cases, num: int, level: float) -> Estimate:
    """Jackknife over cases, these readers, on the log(1 - x) scale: agreement coefficients end at 1."""
    return jackknife(statistic, cases, num=num).estimate(THESE_READERS, level=level, scale=LOG_DISTANCE)


def fleiss_kappa(values: np.ndarray, cases: Cases, *, level: float = 0.95) -> Estimate:
    """Fleiss' kappa over the items that every reader answered: statsmodels' value, jackknife interval over cases.

    Args:
        values: float ``[R, I]``, NaN missing.
        cases: Which items are drawn together.
        level: Coverage.
    """
    counts, complete = _counts(values)
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

    found = _interval(statistic, cases, int(complete.sum()), level)
    assert np.isnan(value) or abs(found.value - value) < 1e-9, (found.value, value)
    return found


def _counts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many readers gave each answer to each item, ``[I, K]``; and which items all of them answered, ``[I]``."""
    known = np.isfinite(values)
    categories = np.unique(values[known])
    counts = np.stack([(values == category).sum(0) for category in categories], axis=1).astype(float)
    return counts, np.asarray(known.all(axis=0))


def krippendorff_alpha(
    values: np.ndarray, *, metric: str = "nominal", cases: Cases | None = None, level: float = 0.95
) -> Estimate:
    """Krippendorff's alpha: any number of readers, missing answers allowed (Krippendorff 2011, "Computing Krippendorff's alpha").

    Args:
        values: float ``[R, I]``, NaN missing.
        metric: "nominal", "ordinal", "interval" or "ratio".
        cases: Which items are drawn together; None gives the value without an interval.
        level: Coverage.

    Returns:
        Alpha, with a jackknife interval over cases; NaN where all answers are alike (it is then not defined).

    Raises:
        MedCoDiError: For an unknown metric.
        DataError: If no item was answered twice.
    """
    one_of("metric", metric, LEVELS, DataError)
    known = np.isfinite(values)
    categories = np.unique(values[known])
    counts = np.stack([(values == category).sum(0) for category in categories], axis=1).astype(float)  # [I, K]
    answered = counts.sum(1)
    pairable = answered >= 2
    if not pairable.any():
        raise DataError("no item has two answers", expected="items that several readers rated", fix="add readers")
    per_pair = np.where(pairable, 1 / np.maximum(answered - 1, 1), 0.0)
    coincidences = counts[:, :, None] * counts[:, None, :] * per_pair[:, None, None]
    size = len(categories)
    coincidences[:, np.arange(size), np.arange(size)] -= counts * per_pair[:, None]
    flat = coincidences.reshape(len(counts), -1)
    distance = _DISTANCES[metric]

    def statistic(w: np.ndarray) -> np.ndarray:
        observed = (w @ flat).reshape(len(w), size, size)
        totals = observed.sum(2)
        num = totals.sum(1)
        gap = distance(categories, totals)
        disagreement = (observed * gap).sum((1, 2))
        expected = (totals[:, :, None] * totals[:, None, :] * gap).sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return (1 - (num - 1) * disagreement / expected)[:, None]

    num = int(answered[pairable].sum())
    if cases is None:
        return Estimate(value=float(statistic(np.ones((1, len(counts))))[0, 0]), num=num)
    return _interval(statistic, cases, num, level)


def _ordinal(categories: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Squared number of answers between two categories, half of each end's own: ``[B, K, K]``."""
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
