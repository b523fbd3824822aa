"""Scores of the fields of records: errors of numbers, areas of categories, and whether the spread of several draws is honest.

Numbers are on each field's own scale: of a field with ``scale: log`` they are natural logarithms, so that its errors are relative ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medcodi.metrics.bootstrap import Statistic
from medcodi.metrics.coherence import correlation_statistic
from medcodi.record import FieldConfig, Record, RecordConfig

Fields = Mapping[str, FieldConfig]  # name -> field


def encoded_records(fields: Fields, records: Sequence[Record]) -> np.ndarray:
    """Values of records: float64 ``[N, F]``, on each field's scale; of a category its index; NaN where missing. Other fields are ignored.

    Raises:
        DataError: If a value is invalid.
    """
    schema = RecordConfig(fields=dict(fields))
    known = ({name: value for name, value in record.items() if name in fields} for record in records)
    return np.array([schema.numbers(record) for record in known], np.float64).reshape(len(records), len(fields))


def columns_of(fields: Fields) -> dict[str, slice]:
    """Field -> its columns among the C columns of values: one of a number, one for each category."""
    ends = np.cumsum([max(1, len(field.values)) for field in fields.values()]).tolist()
    return {name: slice(start, end) for name, start, end in zip(fields, [0, *ends], ends, strict=False)}


def expected_values(fields: Fields, draws: np.ndarray) -> np.ndarray:
    """Mean of the numbers and shares of the categories over S draws: ``[N, S, F]`` -> ``[N, C]``; NaN where a draw lacks the field."""
    columns = []
    for column, field in enumerate(fields.values()):
        own = draws[:, :, column]  # [N, S]
        if field.is_numeric:
            columns.append(own.mean(1))
        for category in range(len(field.values)):
            columns.append(np.where(np.isnan(own), np.nan, own == category).mean(1))
    return np.stack(columns, 1)


# ---- numbers, as functions of study weights --------------------------------------------------------------------------
def r2_statistic(truth: np.ndarray, values: np.ndarray) -> Statistic:
    """Share of the variance that is explained (R²), of ``[N]`` both: weights ``[R, N]`` -> ``[R]``; NaN where the truth is constant."""
    centred = truth - truth.mean()  # first: the variance below loses fewer digits
    errors = (values - truth) ** 2

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            total = weights.sum(1)
            variance = weights @ centred**2 / total - (weights @ centred / total) ** 2
            return np.where(variance > 1e-12, 1 - weights @ errors / total / variance, np.nan)

    return statistic


# Measure of numbers -> its statistic, of truth and values `[N]`.
NUMBERS = {"r2": r2_statistic, "r": correlation_statistic}


# ---- the spread of draws ---------------------------------------------------------------------------------------------
def inside_draws(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Whether each true number is neither the lowest nor the highest beside its S draws: float64 ``[N]``; NaN where unknown.

    If truth and draws are of one distribution, the mean is (S − 1) / (S + 1) (Hamill, 2001). Of equal numbers, each is equally
    likely to count as the lowest, so that rounding changes nothing.

    Args:
        truth: ``[N]``.
        draws: ``[N, S]``.
    """
    equal = (draws == truth[:, None]).sum(1)
    lowest = (truth <= draws.min(1)) / (equal + 1)
    highest = (truth >= draws.max(1)) / (equal + 1)
    return np.where(np.isnan(truth) | np.isnan(draws).any(1), np.nan, 1 - lowest - highest)


def spread_and_error(truth: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of S draws, times (S + 1) / S, and squared error of their mean: float64 ``[N]`` both; 0 where unknown.

    Their sums are equal where truth and draws are of one distribution (Fortin et al., 2014). Arguments as above; S at least 2.
    """
    num = draws.shape[1]
    known = ~np.isnan(truth) & ~np.isnan(draws).any(1)
    spread = draws.var(1, ddof=1) * (num + 1) / num
    error = (draws.mean(1) - truth) ** 2
    return np.where(known, spread, 0.0), np.where(known, error, 0.0)
