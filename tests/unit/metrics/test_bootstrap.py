"""Bootstrap: patients stay together, the seed decides, the interval covers."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.metrics import Interval, bootstrap_interval, paired_difference, resampling_weights
from medcodi.metrics.bootstrap import weighted_mean


def test_patients_are_drawn_whole() -> None:
    weights = resampling_weights(["a", "b", "a", "c", "b"], 200, 0)
    assert weights.shape == (200, 5)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()  # as many patients as there are


def test_the_same_seed_gives_the_same_resamples() -> None:
    patients = [str(index) for index in range(20)]
    assert (resampling_weights(patients, 50, 1) == resampling_weights(patients, 50, 1)).all()
    assert (resampling_weights(patients, 50, 1) != resampling_weights(patients, 50, 2)).any()


def test_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    generator, covered = np.random.default_rng(0), 0
    weights = resampling_weights([str(index) for index in range(80)], 400, 0)
    for _ in range(200):
        interval = bootstrap_interval(weighted_mean(generator.normal(1.0, 2.0, 80)), weights)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairing_removes_what_studies_share() -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 5, 100)
    first, second = shared + 0.2 + generator.normal(0, 0.1, 100), shared
    weights = resampling_weights([str(index) for index in range(100)], 500, 0)
    difference = paired_difference(weighted_mean(first), weighted_mean(second), weights)
    assert 0.1 < difference.low < difference.high < 0.3
    assert bootstrap_interval(weighted_mean(first), weights).low < 0  # unpaired, nothing could be said


def test_studies_without_a_value_are_left_out() -> None:
    weights = resampling_weights(["a", "b", "c", "d"], 100, 0)
    assert bootstrap_interval(weighted_mean(np.array([1.0, np.nan, 3.0, np.nan])), weights).value == 2.0


def test_a_centred_interval_holds_its_value() -> None:
    weights = resampling_weights([str(index) for index in range(30)], 200, 0)
    interval = bootstrap_interval(
        lambda rows: rows[:, 0] * 0 + (rows**2).mean(1), weights, centred=True
    )  # biased by resampling
    assert interval.low < interval.value == 1.0 < interval.high


def test_json_has_no_nan() -> None:
    assert Interval(float("nan"), 0.0, 1.0).to_dict() == {"value": None, "low": 0.0, "high": 1.0}


def test_one_patient_is_refused() -> None:
    with pytest.raises(DataError, match="over 1 patients"):
        resampling_weights(["a", "a"], 10, 0)
