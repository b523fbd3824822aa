"""What every metric of features asks of its two sets before it gives a number."""

from __future__ import annotations

import numpy as np

from medcodi.errors import DataError


def finite_features(features: np.ndarray, name: str = "") -> np.ndarray:
    """Features as float64 ``[N, D]``, all finite.

    Args:
        features: ``[N, D]``, any float type.
        name: Of the set, for messages: "generated", "real".

    Raises:
        DataError: If the shape is another, or a value is NaN or infinite.
    """
    features, name = np.asarray(features, dtype=np.float64), f"{name} " if name else ""
    if features.ndim != 2 or not features.shape[1]:
        raise DataError(f"{name}features of shape {features.shape}", expected="[N, D], one row a sample")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} of {len(features)} {name}feature vectors hold NaN or infinity, the first is row {bad[0]}",
            expected="finite features",
            fix="look at the samples they come from; none is left out silently",
        )
    return features


def checked_features(features: np.ndarray, name: str, *, least: int, metric: str) -> np.ndarray:
    """Features as float64 ``[N, D]``, finite, and enough of them.

    Args:
        features: ``[N, D]``, any float type.
        name: Of the set, for messages: "generated", "real".
        least: Fewest samples that the metric can be taken of.
        metric: Of what, for messages: "the kernel distance".

    Raises:
        DataError: If the shape is another, a value is NaN or infinite, or there are fewer than ``least`` samples.
    """
    features = finite_features(features, name)
    if len(features) < least:
        raise DataError(
            f"{metric} was asked of {len(features)} {name} samples",
            expected=f"at least {least}",
            fix=f"score at least {least} studies, or choose a metric that needs fewer",
        )
    return features


def checked_pair(first: np.ndarray, second: np.ndarray, *, least: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Real and generated features, each checked by :func:`checked_features`, of one extractor.

    Raises:
        DataError: Also if their lengths differ.
    """
    first = checked_features(first, "real", least=least, metric=metric)
    second = checked_features(second, "generated", least=least, metric=metric)
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"features of {first.shape[1]} and {second.shape[1]} dimensions",
            expected="the same feature extractor for both",
        )
    return first, second
