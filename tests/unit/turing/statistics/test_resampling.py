"""Variances over cases and readers, by hand and by two methods."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.turing.power.simulation import ReaderModel, SimulatedStudy, simulate
from medcodi.turing.statistics import (
    NEW_READERS,
    THESE_READERS,
    Cases,
    detection,
    jackknife,
    two_way_bootstrap,
)


def test_bootstrap_and_jackknife_agree_about_cases(study: SimulatedStudy) -> None:
    statistic = detection.rates(study.as_detection)["accuracy"]
    by_draws = two_way_bootstrap(statistic, study.cases, "agree", num_resamples=20_000)
    left_out = jackknife(statistic, study.cases)
    np.testing.assert_allclose(by_draws.covariance, left_out.covariance, atol=2e-4)
    assert by_draws.mean == pytest.approx(left_out.mean)


def test_new_readers_widen_the_interval_and_need_three(study: SimulatedStudy) -> None:
    far = simulate(ReaderModel(reader_sd=1.0, d_prime_sd=0.8), "far", num_readers=3, num_per_arm=30)
    found = jackknife(detection.rates(far.as_detection)["accuracy"], far.cases)
    these, new = found.share(THESE_READERS), found.share(NEW_READERS)
    assert new.high - new.low > 1.5 * (these.high - these.low)
    two = simulate(ReaderModel(), "two", num_readers=2, num_per_arm=30)
    assert np.isnan(jackknife(detection.rates(two.as_detection)["accuracy"], two.cases).share(NEW_READERS).low)


def test_variance_for_new_readers_by_hand() -> None:
    from medcodi.turing.statistics import Resampled

    covariance = np.array([[0.4, 0.1, 0.1], [0.1, 0.4, 0.1], [0.1, 0.1, 0.4]])
    found = Resampled(
        values=np.array([1.0, 2.0, 3.0]), parts=[(covariance, 50.0)], num_units=60, num=180, how="jackknife"
    )
    variance, df = found.new_readers()
    assert variance == pytest.approx(1 / 3 + 0.1)
    share = (1 / 3) / (1 / 3 + 0.1)
    assert df == pytest.approx(1 / (share / 2 + (1 - share) / 50))
    assert found.these_readers()[0] == pytest.approx((3 * 0.4 + 6 * 0.1) / 9)


def test_missing_answers_are_left_out_not_filled() -> None:
    values = np.array([[1.0, 0, np.nan, 1], [1, np.nan, np.nan, np.nan]])
    means = detection.mean_statistic(values)(np.ones((1, 4)))[0]
    assert means == pytest.approx([2 / 3, 1.0])


def test_one_case_tells_nothing_about_others() -> None:
    with pytest.raises(DataError, match="case"):
        Cases.of(["a", "a"], ["real", "real"])
