"""Checks of feature sets: shape, finite values, enough samples, one extractor."""

from __future__ import annotations

import numpy as np

from medcodi.errors import DataError


def finite_features(features: np.ndarray, name: str = "") -> np.ndarray:
    """Features as float64 ``[N, D]``; another shape, NaN or infinity is a DataError that names the set."""
    features, name = np.asarray(features, dtype=np.float64), f"{name} " if name else ""
    if features.ndim != 2 or not features.shape[1]:
        raise DataError(f"{name}features of shape {features.shape}", expected="[N, D], one row a sample")
    # A sample is never left out silently: the caller decides.
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} of {len(features)} {name}feature vectors hold NaN or infinity, the first is row {bad[0]}",
            expected="finite features",
            fix="look at the samples they come from; none is left out silently",
        )
    return features


def checked_features(features: np.ndarray, name: str, *, least: int, metric: str) -> np.ndarray:
    """Finite features of at least ``least`` samples, which ``metric`` needs; a message names the set: "generated", "real"."""
    features = finite_features(features, name)
    if len(features) < least:
        raise DataError(
            f"{metric} of only {len(features)} {name} samples",
            expected=f"at least {least}",
            fix=f"score at least {least} studies, or choose a metric that needs fewer",
        )
    return features


def checked_pair(first: np.ndarray, second: np.ndarray, *, least: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Real and generated features, each checked by :func:`checked_features`, of one length."""
    first = checked_features(first, "real", least=least, metric=metric)
    second = checked_features(second, "generated", least=least, metric=metric)
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"features of {first.shape[1]} and {second.shape[1]} dimensions",
            expected="the same feature extractor for both",
        )
    return first, second
