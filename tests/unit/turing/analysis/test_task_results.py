"""Records of one task: estimates for both populations, tests with a value, equivalence with a margin, and notes where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.turing.analysis.task_results import TaskResults, add_agreement, add_time
from medcodi.turing.answers.table import answers_from_rows
from medcodi.turing.power.simulation import ReaderModel, simulate
from medcodi.turing.statistics import NEW_READERS, THESE_READERS
from medcodi.turing.statistics.intervals import Estimate
from medcodi.turing.statistics.ratings import difference


def results(margin: float | None = None) -> TaskResults:
    return TaskResults(task="t", level=0.95, seed=0, num_resamples=200, margin=margin, alpha=0.05)


def test_a_record_holds_task_group_statistic_and_estimate() -> None:
    own = results()
    own.add("ratings", "mean", Estimate(value=3.5, low=3.0, high=4.0, num=7), contrast="real", reader="reader-01")
    record = own.estimates[0]
    assert (record["task"], record["group"], record["statistic"]) == ("t", "ratings", "mean")
    assert (record["contrast"], record["reader"], record["value"], record["se"]) == ("real", "reader-01", 3.5, None)


@pytest.mark.parametrize(("num_readers", "populations"), [(2, [THESE_READERS]), (3, [THESE_READERS, NEW_READERS])])
def test_new_readers_are_recorded_from_three_on(num_readers: int, populations: list[str]) -> None:
    pair = simulate(ReaderModel(), "records", num_readers=num_readers, num_per_arm=20).as_ratings
    own = results(margin=0.7)
    own.add_means("ratings", "difference", difference(pair))
    assert [record["population"] for record in own.estimates] == populations
    own.equivalent("difference", difference(pair), reference=0.0, contrast="generated - real")
    assert [record["population"] for record in own.equivalences] == populations
    assert all(record["p"] == max(record["p_lower"], record["p_upper"]) for record in own.equivalences)


def test_nothing_is_recorded_without_a_p_value_or_a_margin() -> None:
    own = results()
    own.test("a test", float("nan"), group="ratings", contrast="")
    own.test("another", 0.25, group="ratings", contrast="")
    assert [(record["test"], record["p"]) for record in own.tests] == [("another", 0.25)]
    pair = simulate(ReaderModel(), "records", num_readers=3, num_per_arm=20).as_ratings
    own.equivalent("difference", difference(pair), reference=0.0, contrast="")
    assert own.equivalences == []


def test_agreement_needs_two_readers_and_is_complete_for_ratings() -> None:
    study = simulate(ReaderModel(), "records", num_readers=3, num_per_arm=20)
    own = results()
    add_agreement(study.ratings[:1], study.readers[:1], study.cases, own, ordered=True)
    assert own.notes == ["one reader: no agreement between readers"] and not own.estimates
    add_agreement(study.ratings, study.readers, study.cases, own, ordered=True)
    names = [record["statistic"] for record in own.estimates]
    assert names.count("Cohen's kappa, quadratic weights") == 3  # every pair of readers
    assert {"Fleiss' kappa", "ICC(2,1)", "ICC(3,k)", "Krippendorff's alpha, ordinal"} <= set(names)


def test_the_trend_of_the_time_is_that_of_a_straight_line() -> None:
    shared = {"task": "t", "kind": "rating", "rating": 3, "patient": ""}
    rows = [
        shared
        | {"reader": f"r{r}", "item": f"i{i}", "case": f"c{i}", "arm": "real", "position": i}
        | {"seconds": float(np.exp(3 - i / 9))}
        for r in range(2)
        for i in range(10)
    ]
    own = results()
    add_time(answers_from_rows(rows).of("t"), own)
    assert own.estimates[0]["value"] == pytest.approx(-1.0)  # the log of the time falls by 9 / 9 over the trials
