"""Tests and models of ratings equal scipy's and statsmodels'."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medcodi.turing.power.simulation import ReaderModel, SimulatedStudy, simulate
from medcodi.turing.statistics import (
    ratings,
)

CLOSE = {"rel": 0, "abs": 1e-9}


def test_rank_tests_are_scipys(study: SimulatedStudy, paired: SimulatedStudy) -> None:
    name, p = ratings.reader_rank_test(study.as_ratings, 1)
    theirs = stats.mannwhitneyu(study.ratings[1, 30:], study.ratings[1, :30], method="asymptotic")
    assert (name, p) == ("Mann-Whitney", pytest.approx(theirs.pvalue, **CLOSE))
    name, p = ratings.reader_rank_test(paired.as_ratings, 1)
    theirs = stats.wilcoxon(paired.ratings[1, 30:] - paired.ratings[1, :30], method="asymptotic")
    assert (name, p) == ("Wilcoxon signed-rank", pytest.approx(theirs.pvalue, **CLOSE))


def test_superiority_is_the_mann_whitney_effect(study: SimulatedStudy) -> None:
    u = stats.mannwhitneyu(study.ratings[0, 30:], study.ratings[0, :30]).statistic
    assert ratings.superiority(study.as_ratings).values[0] == pytest.approx(u / 900, **CLOSE)


def test_a_mixed_model_is_statsmodels_own() -> None:
    import pandas as pd
    import statsmodels.formula.api as smf

    from medcodi.turing.statistics.ratings import fit_mixed

    study = simulate(ReaderModel(), 0, num_readers=3, num_per_arm=30)
    mine = fit_mixed(study.as_ratings)
    assert mine is not None
    frame = pd.DataFrame(
        {"y": study.ratings.ravel(), "arm": np.tile(study.generated, 3) * 1.0, "reader": np.repeat(range(3), 60)}
        | {"case": np.tile(range(60), 3), "one": 1}
    )
    formula = {"case": "0 + C(case)", "reader": "0 + C(reader)", "reader_arm": "0 + C(reader):C(arm)"}
    theirs = smf.mixedlm("y ~ arm", frame, groups="one", vc_formula=formula).fit(reml=True, method=["lbfgs", "powell"])
    names = theirs.model.exog_vc.names
    assert mine.effect.value == pytest.approx(theirs.params["arm"], abs=1e-9)
    assert mine.effect.se == pytest.approx(theirs.bse["arm"], rel=1e-3)
    for name, value in zip(names, theirs.vcomp, strict=True):
        assert mine.components[name] == pytest.approx(value, abs=2e-3)
