"""Two systems (or directions) on the same studies: the difference with its interval, and a permutation test over patients.

Both use one *stacked* statistic: the rows of the first system, then those of the second, ``2 N`` in all. Weights that are zero on the
second half give the first system's value; exchanging the halves of a patient exchanges the systems. So any function of weights can be tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Interval, Statistic, paired_difference, resampling_weights
from medcodi.metrics.findings import Confusion
from medcodi.randomness import Key, numpy_generator

_BLOCK = 1000  # permutations at once


@dataclass(frozen=True)
class PairedTest:
    """First against second on the same studies."""

    first: float
    second: float
    difference: Interval  # first - second, with its bootstrap interval over patients
    p_value: float  # two-sided, of the permutation test; NaN where a value is
    num_studies: int
    num_patients: int
    num_permutations: int
    exact: bool  # whether every exchange was tried, instead of a random set of them

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: NaN becomes None."""
        numbers = {name: value for name, value in vars(self).items() if name != "difference"}
        plain = {name: None if np.isnan(value) else value for name, value in numbers.items()}
        return {**plain, "difference": self.difference.to_dict()}


def halves(stacked: Statistic) -> tuple[Statistic, Statistic]:
    """The two systems of a stacked statistic of ``2 N`` rows, each a function of weights ``[R, N]``."""

    def first(weights: np.ndarray) -> np.ndarray:
        return stacked(np.hstack([weights, np.zeros_like(weights)]))

    def second(weights: np.ndarray) -> np.ndarray:
        return stacked(np.hstack([np.zeros_like(weights), weights]))

    return first, second


def stacked_confusion(first: Confusion, second: Confusion) -> Confusion:
    """Both confusions as one of ``2 N`` rows, whose ``macro_f1()`` and ``micro_f1()`` are stacked statistics."""
    return Confusion(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("tp", "fp", "fn")))


def paired_test(
    stacked: Statistic,
    patients: Sequence[str],
    *keys: Key,
    num_resamples: int = 1000,
    num_permutations: int = 10000,
) -> PairedTest:
    """Test whether two systems differ on the same studies.

    Under the null hypothesis the systems are exchangeable within a patient (Fisher's randomization test). All ``2^P`` exchanges
    are tried where they are no more than ``num_permutations``; else a random set, counted with the observed one among them
    (Phipson and Smyth, 2010), so that p is never 0.

    Args:
        stacked: Statistic of ``2 N`` rows: the first system's studies, then the second's in the same order.
        patients: Patient of each of the ``N`` studies; at least 2 patients.
        *keys: Keys of the randomness of resamples and exchanges.
        num_resamples: Of the bootstrap interval.
        num_permutations: At most.
    """
    # Values, and the difference on bootstrap resamples.
    num = len(patients)
    first, second = halves(stacked)
    ones = np.ones((1, num))
    values = float(first(ones)[0]), float(second(ones)[0])
    weights = resampling_weights(patients, num_resamples, *keys)
    difference = paired_difference(first, second, weights)
    # The permutation test: how often an exchange differs as much as observed.
    names, cluster = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    exact = len(names) < 60 and 2 ** len(names) <= num_permutations
    p_value, tried = float("nan"), 0
    if not np.isnan(difference.value):
        extreme = 0
        for flips in _exchanges(len(names), num_permutations, exact, keys):
            swapped = flips[:, cluster].astype(np.float64)  # [B, N]
            moved = stacked(np.hstack([1 - swapped, swapped])) - stacked(np.hstack([swapped, 1 - swapped]))
            # Rounding must not make the observed exchange less extreme than itself.
            tolerance = 1e-12 + 1e-9 * abs(difference.value)
            extreme += int((np.abs(np.nan_to_num(moved)) >= abs(difference.value) - tolerance).sum())
            tried += len(flips)
        p_value = extreme / tried if exact else (extreme + 1) / (tried + 1)
    return PairedTest(values[0], values[1], difference, p_value, num, len(names), tried, exact)


def _exchanges(num_patients: int, num: int, exact: bool, keys: Sequence[Key]):
    """Blocks of bool ``[B, P]``: which patients' systems are exchanged."""
    if exact:
        # The bits of a number say which patients are exchanged.
        codes = np.arange(2**num_patients)
        for start in range(0, len(codes), _BLOCK):
            yield (codes[start : start + _BLOCK, None] >> np.arange(num_patients)) & 1 == 1
        return
    generator = numpy_generator("exchanges", *keys)
    for start in range(0, num, _BLOCK):
        yield generator.random((min(_BLOCK, num - start), num_patients)) < 0.5


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of a family of tests, adjusted by Holm (1979); NaN stays NaN and does not count; outside [0, 1] is a DataError."""
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise DataError(f"p-values {values.tolist()}", expected="numbers in [0, 1]")
    # The smallest of m is multiplied by m, the next by m - 1, and so on; no p-value is below an earlier one.
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted.tolist()
