"""Bootstrap intervals over studies, patients kept together, keyed by a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from medcodi.errors import DataError
from medcodi.randomness import Key, numpy_generator

_COVERAGE = 0.95  # of an interval
_ROWS = 64  # resamples of a block
Statistic = Callable[[np.ndarray], np.ndarray]  # weights [R, N] -> values [R]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready: NaN becomes None."""
        return {key: (None if np.isnan(number) else float(number)) for key, number in asdict(self).items()}


def resampling_weights(patients: Sequence[str], num_resamples: int, *keys: Key) -> np.ndarray:
    """How often each of ``N`` studies is drawn in each of ``R`` resamples: float64 ``[R, N]``.

    Whole patients are drawn, with replacement, so a row sums to ``N`` exactly only where each has one study. Fewer than 2 are a DataError.
    """
    names, cluster = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        raise DataError(
            f"a bootstrap over {len(names)} patients", expected="at least 2 patients", fix="score more studies"
        )
    # Draw patients, count how often each was drawn, and give every study the count of its patient.
    draws = numpy_generator("bootstrap", *keys).integers(0, len(names), size=(num_resamples, len(names)))
    counts = np.zeros((num_resamples, len(names)))  # [R, P]
    np.add.at(counts, (np.arange(num_resamples)[:, None], draws), 1.0)
    return counts[:, cluster]


def in_blocks(statistic: Statistic) -> Statistic:
    """The same statistic on a few resamples at a time, so that its arrays fit the processor's cache."""

    def blocked(weights: np.ndarray) -> np.ndarray:
        parts = [statistic(weights[start : start + _ROWS]) for start in range(0, len(weights), _ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0)

    return blocked


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean along an axis without NaN; NaN where every value is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0.0).sum(axis) / known.sum(axis)


def weighted_mean(values: np.ndarray) -> Statistic:
    """The statistic of a mean over studies: ``values`` float ``[N]``, NaN where a study has none."""
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)  # [N]
    filled = np.where(known, values, 0.0)

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return weights @ filled / (weights @ known)

    return statistic


def _interval(value: float, resampled: np.ndarray) -> Interval:
    resampled = resampled[~np.isnan(resampled)]
    if not resampled.size or np.isnan(value):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(resampled, [(1 - _COVERAGE) / 2, (1 + _COVERAGE) / 2])
    return Interval(float(value), float(low), float(high))


def bootstrap_interval(statistic: Statistic, weights: np.ndarray, *, centred: bool = False) -> Interval:
    """The statistic on all studies, with its percentile bootstrap interval from :func:`resampling_weights`.

    ``centred`` moves the resampled values so that their median is the plain value: for statistics that resampling biases, such as a
    Fréchet distance (a resample holds duplicates, so its covariance is too small). The interval then shows the spread.
    """
    # A row of ones gives the plain value.
    value = float(statistic(np.ones((1, weights.shape[1])))[0])
    resampled = np.asarray(statistic(weights), dtype=np.float64)
    if centred:
        resampled = np.clip(resampled - np.nanmedian(resampled) + value, 0.0, None)
    return _interval(value, resampled)


def paired_difference(first: Statistic, second: Statistic, weights: np.ndarray) -> Interval:
    """``first - second`` with its percentile interval, both on the *same* resamples, so what studies share cancels."""
    ones = np.ones((1, weights.shape[1]))
    value = float(first(ones)[0] - second(ones)[0])
    return _interval(value, np.asarray(first(weights)) - np.asarray(second(weights)))
