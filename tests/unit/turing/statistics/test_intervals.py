"""Wilson's interval equals statsmodels'."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from medcodi.turing.statistics.intervals import Estimate, share_interval, wilson

CLOSE = {"rel": 0, "abs": 1e-9}


@pytest.mark.parametrize(("successes", "num"), [(0, 12), (7, 12), (12, 12), (41, 60)])
def test_wilson_is_statsmodels(successes: int, num: int) -> None:
    assert wilson(successes, num) == pytest.approx(proportion_confint(successes, num, method="wilson"), **CLOSE)


def test_wilson_with_the_variance_of_independent_answers_is_wilson() -> None:
    low, high = share_interval(0.7, 0.7 * 0.3 / 60, np.inf, 60)
    assert (low, high) == pytest.approx(wilson(42, 60), **CLOSE)
    assert share_interval(1.0, 0.0, np.inf, 20) == pytest.approx(wilson(20, 20), **CLOSE)


def test_an_interval_is_cut_to_what_is_possible() -> None:
    wide = Estimate(value=3.5, low=-5.0, high=9.0)
    assert (wide.within(-4, 4).low, wide.within(-4, 4).high, wide.within(-4, 4).value) == (-4.0, 4.0, 3.5)
    assert (wide.within(-np.inf, np.inf).low, wide.within(-np.inf, np.inf).high) == (-5.0, 9.0)
    assert np.isnan(Estimate(value=1.0).within(-4, 4).high)
