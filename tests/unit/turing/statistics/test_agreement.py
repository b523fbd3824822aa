"""Agreement equals the maintained libraries', and published worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

from benchmarks.turing_truth import icc_satterthwaite
from medcodi.errors import DataError
from medcodi.turing.power.simulation import SimulatedStudy
from medcodi.turing.statistics import (
    agreement,
)

CLOSE = {"rel": 0, "abs": 1e-9}


# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): 4 observers, 12 units, missing data.
_ = np.nan


OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)


# Shrout & Fleiss (1979), table 2: 6 targets, 4 judges.
TARGETS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)


@pytest.mark.parametrize(
    ("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_of_krippendorffs_own_example(metric: str, published: float) -> None:
    assert agreement.krippendorff_alpha(OBSERVERS, metric=metric).value == pytest.approx(published, abs=5e-4)


def test_icc_of_shrout_and_fleiss() -> None:
    found = agreement.icc(TARGETS.T)
    published = {"1,1": 0.17, "2,1": 0.29, "3,1": 0.71, "1,k": 0.44, "2,k": 0.62, "3,k": 0.91}
    # the third single value is 0.7148: printed as .71
    assert {name: round(found[name].value, 2) for name in published} == published
    bounds = {"1,1": (-0.133, 0.723), "2,1": (0.019, 0.761), "3,1": (0.342, 0.946)}
    satterthwaite = icc_satterthwaite(TARGETS.T)
    for name, (low, high) in bounds.items():
        estimate = satterthwaite[1:] if name == "2,1" else (found[name].low, found[name].high)
        assert estimate == pytest.approx((low, high), abs=6e-4)


def test_the_generalized_interval_of_case_two_differs_little_from_the_published_one() -> None:
    found, (value, low, high) = agreement.icc(TARGETS.T)["2,1"], icc_satterthwaite(TARGETS.T)
    assert found.value == pytest.approx(value, **CLOSE)
    assert found.low == pytest.approx(low, abs=0.04)
    assert found.high == pytest.approx(high, abs=0.04)


def test_mean_squares_of_shrout_and_fleiss() -> None:
    m = agreement.mean_squares(TARGETS)
    assert (round(m.between, 2), round(m.within, 2), round(m.readers, 2), round(m.error, 2)) == (
        11.24,
        6.26,
        32.49,
        1.02,
    )


def test_kappas_are_those_of_the_libraries(study: SimulatedStudy) -> None:
    first, second = study.ratings[:2]
    for weights in (None, "linear", "quadratic"):
        mine = agreement.cohen_kappa(first, second, study.cases, weights=weights).value
        assert mine == pytest.approx(cohen_kappa_score(first, second, weights=weights), **CLOSE)
    table = confusion_matrix(first, second)
    theirs = cohens_kappa(table)
    mine = agreement.cohen_kappa(first, second, study.cases)
    assert mine.value == pytest.approx(theirs.kappa, **CLOSE)
    assert mine.se == pytest.approx(theirs.std_kappa, rel=0.1)  # theirs by the delta method, ours by the jackknife
    counts = np.stack([(study.ratings == k).sum(0) for k in range(1, 6)], axis=1)
    assert agreement.fleiss_kappa(study.ratings, study.cases).value == pytest.approx(fleiss_kappa(counts), **CLOSE)


def test_alpha_with_two_readers_and_no_missing_answer_is_scotts_pi_for_few(study: SimulatedStudy) -> None:
    values = study.says_generated[:2]
    num = values.size
    counts = np.stack([(values == k).sum(0) for k in (0, 1)], axis=1)
    pi = fleiss_kappa(counts)
    assert agreement.krippendorff_alpha(values).value == pytest.approx(1 - (1 - pi) * (num - 1) / num, **CLOSE)


def test_alpha_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(DataError, match="did you mean 'nominal'"):
        agreement.krippendorff_alpha(OBSERVERS, metric="nominl")
    with pytest.raises(DataError, match="no item has two answers"):
        agreement.krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 2.0]]))
