"""Paired tests: scipy's exact p-value, patients kept together, statistics that are no means, Holm's adjustment."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Statistic, weighted_mean
from medcodi.metrics.findings import Confusion
from medcodi.metrics.paired import holm, paired_test, stacked_confusion

GENERATOR = np.random.default_rng(0)


def stacked_mean(first: np.ndarray, second: np.ndarray) -> Statistic:
    """Mean over studies of a value each, as a statistic of both systems' rows."""
    return weighted_mean(np.concatenate([first, second]))


def patients(num: int) -> list[str]:
    return [f"p{index}" for index in range(num)]


def test_exact_p_is_scipys() -> None:
    first, second = GENERATOR.normal(size=9) + 0.6, GENERATOR.normal(size=9)
    peer = permutation_test(
        (first, second), lambda a, b: np.mean(a) - np.mean(b), permutation_type="samples", n_resamples=np.inf
    )
    ours = paired_test(stacked_mean(first, second), patients(9), 0)
    assert ours.exact and ours.num_permutations == 512
    assert ours.p_value == pytest.approx(peer.pvalue, rel=1e-9)
    assert ours.difference.value == pytest.approx(first.mean() - second.mean())


def test_a_random_set_is_near_the_exact_one_and_keyed() -> None:
    first, second = GENERATOR.normal(size=12) + 0.5, GENERATOR.normal(size=12)
    exact = paired_test(stacked_mean(first, second), patients(12), 0)
    drawn = paired_test(stacked_mean(first, second), patients(12), 0, num_permutations=4000)
    assert not drawn.exact and drawn.p_value == pytest.approx(exact.p_value, abs=0.03)
    assert drawn == paired_test(stacked_mean(first, second), patients(12), 0, num_permutations=4000)


def test_studies_of_a_patient_are_exchanged_together() -> None:
    """Two patients of many studies: four exchanges, so p cannot be less than 1/2, however many studies there are."""
    first = np.ones(40)
    test = paired_test(stacked_mean(first, first * 0), ["a"] * 20 + ["b"] * 20, 0)
    assert test.num_patients == 2 and test.p_value == 0.5 and test.num_permutations == 4


def test_macro_f1_is_tested_as_it_is() -> None:
    """Against every exchange worked out one by one."""
    truth = (GENERATOR.random((6, 2)) < 0.5).astype(float)
    truth[0], truth[1] = 1, 0
    readings = [(GENERATOR.random((6, 2)) < 0.5).astype(float) for _ in range(2)]
    one, other = (Confusion.of(truth, reading) for reading in readings)
    test = paired_test(stacked_confusion(one, other).macro_f1(), patients(6), 0)

    def f1(rows: list[np.ndarray]) -> float:
        return float(Confusion.of(truth, np.stack(rows)).macro_f1()(np.ones((1, 6)))[0])

    gaps = []
    for flips in product([False, True], repeat=6):
        chosen = [readings[flip][row] for row, flip in enumerate(flips)]
        left = [readings[not flip][row] for row, flip in enumerate(flips)]
        gaps.append(f1(chosen) - f1(left))
    assert test.first == pytest.approx(f1(list(readings[0]))) and test.difference.value == pytest.approx(gaps[0])
    assert test.p_value == pytest.approx(np.mean(np.abs(gaps) >= abs(gaps[0]) - 1e-12))


def test_no_difference_is_no_discovery_and_a_large_one_is() -> None:
    values = GENERATOR.normal(size=60)
    same = paired_test(stacked_mean(values, values), patients(60), 0)
    assert same.p_value == 1.0 and same.to_dict()["difference"]["value"] == pytest.approx(0, abs=1e-12)
    worse = paired_test(stacked_mean(values - 1, values), patients(60), 0)
    assert 0 < worse.p_value < 1e-3 and worse.difference.high < 0


def test_nan_statistics_have_no_p_and_one_patient_is_refused() -> None:
    empty = np.full(5, np.nan)
    assert paired_test(stacked_mean(empty, empty), patients(5), 0).to_dict()["p_value"] is None
    with pytest.raises(DataError, match="1 patients"):
        paired_test(stacked_mean(np.ones(3), np.ones(3)), ["a"] * 3, 0)


def test_holm_is_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    values = [0.01, 0.04, 0.03, 0.005, 0.9]
    assert holm(values) == pytest.approx(multitest.multipletests(values, method="holm")[1].tolist())
    with_gap = holm([0.01, float("nan"), 0.04])
    assert with_gap[0] == 0.02 and np.isnan(with_gap[1]) and with_gap[2] == 0.04
    with pytest.raises(DataError, match="p-values"):
        holm([1.2])
