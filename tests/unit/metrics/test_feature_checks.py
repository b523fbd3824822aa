"""Checks of feature sets: each refusal names the set, the numbers and what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.metrics.feature_checks import checked_features, checked_pair, finite_features


def test_features_become_float64_and_keep_their_values() -> None:
    features = np.arange(6, dtype=np.float16).reshape(3, 2)
    checked = finite_features(features)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, features)


@pytest.mark.parametrize("shape", [(3,), (3, 0), (1, 2, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"real features of shape .*\[N, D\]"):
        finite_features(np.zeros(shape), "real")


def test_the_first_bad_row_is_named() -> None:
    features = np.zeros((5, 2))
    features[[2, 4], 1] = np.inf, np.nan
    with pytest.raises(DataError, match="2 of 5 generated feature vectors hold NaN or infinity, the first is row 2"):
        finite_features(features, "generated")


def test_too_few_samples_are_refused_with_both_numbers() -> None:
    assert checked_features(np.zeros((4, 1)), "real", least=4, metric="a metric").shape == (4, 1)
    with pytest.raises(DataError, match="a metric of only 4 real samples.*at least 5"):
        checked_features(np.zeros((4, 1)), "real", least=5, metric="a metric")


def test_a_pair_is_of_one_extractor() -> None:
    first, second = checked_pair(np.zeros((2, 3)), np.ones((4, 3)), least=2, metric="a metric")
    assert first.shape == (2, 3) and second.shape == (4, 3)
    with pytest.raises(DataError, match="features of 3 and 2 dimensions"):
        checked_pair(np.zeros((2, 3)), np.zeros((2, 2)), least=2, metric="a metric")
