"""Two one-sided tests equal statsmodels'."""

from __future__ import annotations

import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from medcodi.errors import ConfigError
from medcodi.turing.power.simulation import SimulatedStudy
from medcodi.turing.statistics import (
    THESE_READERS,
    detection,
    equivalence,
    ratings,
)

CLOSE = {"rel": 0, "abs": 1e-9}


def test_tost_of_one_reader_is_statsmodels(study: SimulatedStudy, paired: SimulatedStudy) -> None:
    for s, theirs in (
        (study, ttost_ind(study.ratings[0, 30:], study.ratings[0, :30], -0.6, 0.6, usevar="unequal")),
        (paired, ttost_paired(paired.ratings[0, 30:], paired.ratings[0, :30], -0.6, 0.6)),
    ):
        alone = ratings.difference(s.as_ratings).single(0)
        mine = equivalence.tost(alone, 0.6, THESE_READERS)
        assert mine.p == pytest.approx(theirs[0], **CLOSE)
        assert sorted([mine.p_lower, mine.p_upper]) == pytest.approx(sorted([theirs[1][1], theirs[2][1]]), **CLOSE)
        welch = stats.ttest_ind(s.ratings[0, 30:], s.ratings[0, :30], equal_var=False)
        same = stats.ttest_rel(s.ratings[0, 30:], s.ratings[0, :30])
        p = detection.t_test(alone, 0.0, THESE_READERS)
        assert p == pytest.approx((same if s is paired else welch).pvalue, **CLOSE)


def test_tost_shows_equivalence_only_inside_the_margin(study: SimulatedStudy) -> None:
    found = ratings.difference(study.as_ratings)
    wide, narrow = equivalence.tost(found, 3.0, THESE_READERS), equivalence.tost(found, 0.01, THESE_READERS)
    assert wide.shown and not narrow.shown
    inside = abs(wide.estimate.low) < 3 and abs(wide.estimate.high) < 3
    assert inside and wide.estimate.level == pytest.approx(0.9)


@pytest.mark.parametrize("margin", [0, -0.5, float("nan"), "wide"])
def test_a_margin_must_be_positive(margin: object, study: SimulatedStudy) -> None:
    with pytest.raises(ConfigError, match="margin"):
        equivalence.tost(ratings.difference(study.as_ratings), margin, THESE_READERS)  # type: ignore[arg-type]
