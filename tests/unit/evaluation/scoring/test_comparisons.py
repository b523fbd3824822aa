"""Paired tests of directions and systems: on what both count, judged by which way is better, none lost without a word."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.scoring.comparisons import (
    common_rows,
    judgement,
    multi_prompt_tests,
    system_tests,
)
from medcodi.evaluation.scoring.direction import DirectionScores
from medcodi.evaluation.scoring.figures import TargetScores
from medcodi.evaluation.scoring.metrics import ALL_TARGETS, PRIMARY
from medcodi.evaluation.scoring.statistics import F1Statistic, MeanStatistic, SetStatistic, StudyStatistic
from medcodi.metrics.findings import Confusion
from medcodi.study import Direction

NUM = 40
CONFIG = ScoringConfig(bootstrap_samples=200, permutations=400)
TRUTH = (np.random.default_rng(0).random((NUM, 2)) < 0.5).astype(float)
NAMES = ("Edema", "Fracture")


PATIENTS = [f"patient{index}" for index in range(NUM)]


def counts(*errors: float | None) -> F1Statistic:
    """Of each finding the share that is read wrong; None: the finding does not count."""
    draw = np.random.default_rng(3).random((NUM, len(NAMES)))
    columns = [k for k, rate in enumerate(errors) if rate is not None]
    rates = np.array([errors[k] for k in columns], dtype=float)
    read = np.where(draw[:, columns] < rates, 1 - TRUTH[:, columns], TRUTH[:, columns])
    names = tuple(f"frontal: {NAMES[k]}" for k in columns)
    return F1Statistic((Confusion.of(TRUTH[:, columns], read),), "macro_f1", (names,))


def scores(
    direction: str, *errors: float | None, rows: list[int] | None = None, more: dict[str, StudyStatistic] | None = None
) -> DirectionScores:
    """One target, with its primary figure unless no errors are told."""
    told = TargetScores()
    told.statistics = {**({PRIMARY: counts(*errors)} if errors else {}), **(more or {})}
    return DirectionScores(Direction.parse(direction), rows or list(range(NUM)), {"frontal": told})


def together(*each: DirectionScores) -> dict[str, dict[Direction, DirectionScores]]:
    return {"ours": {one.direction: one for one in each}}


def primary(tests: list[dict]) -> dict[str, dict]:
    return {test["against"]: test for test in tests if test["target"] == ALL_TARGETS}


def test_directions_that_count_different_findings_are_compared_and_the_better_prompt_is_told_on_common_ones() -> None:
    """Over its own findings lateral looks better (0.2 beside 0 and 0.6 wrong); on the one that both count, report is."""
    report, lateral = scores("report->frontal", 0.0, 0.6), scores("lateral->frontal", 0.2, None)
    found = multi_prompt_tests(together(scores("lateral+report->frontal", 0.1, 0.1), report, lateral), PATIENTS, CONFIG)
    tests = primary(found.tests)
    assert set(tests) == {"report->frontal", "lateral->frontal"} and not found.left_out
    one = tests["lateral->frontal"]
    assert one["findings"] == 1 and one["findings_left_out"] == ["frontal: Fracture"] and one["p_value"] is not None
    assert tests["report->frontal"]["findings_left_out"] == []
    assert tests["report->frontal"]["second"] < one["second"]  # each over what it counts
    assert tests["report->frontal"]["against_better"] is True and one["against_better"] is False


def test_a_test_that_cannot_be_is_listed_and_names_no_better_prompt() -> None:
    both = scores("lateral+report->frontal", 0.1, None)
    single = scores("report->frontal", 0.2, 0.2)
    for other, reason in (
        (scores("lateral->frontal", None, 0.3), "none of them in common"),
        (scores("lateral->frontal"), "the second has no such figure"),
        (
            scores("lateral->frontal", 0.3, 0.3, rows=list(range(7, 14))),
            "at least 8 patients that both have; there are 7",
        ),
        (None, "lateral->frontal was not evaluated"),
    ):
        found = multi_prompt_tests(together(both, single, *([other] if other else [])), PATIENTS, CONFIG)
        assert [(one["against"], one["target"]) for one in found.left_out] == [("lateral->frontal", ALL_TARGETS)]
        assert reason in found.left_out[0]["reason"]
        tests = primary(found.tests)
        assert set(tests) == {"report->frontal"} and "against_better" not in tests["report->frontal"]


def test_the_adjustment_is_over_the_whole_table() -> None:
    given = together(*(scores(name, *errors) for name, errors in (
        ("lateral+report->frontal", (0.0, 0.1)), ("report->frontal", (0.1, 0.3)), ("lateral->frontal", (0.2, 0.3)))))  # fmt: skip
    alone = multi_prompt_tests(given, PATIENTS, CONFIG).tests
    twice = multi_prompt_tests({"a": given["ours"], "b": given["ours"]}, PATIENTS, CONFIG).tests
    least = min(test["p_value"] for test in alone)
    assert min(test["p_holm"] for test in alone) == pytest.approx(2 * least)
    assert min(test["p_holm"] for test in twice) == pytest.approx(4 * least)


def test_a_longer_distance_is_worse() -> None:
    def of(mean: float) -> SetStatistic:
        values = np.random.default_rng(4).normal(mean, 0.1, NUM)
        return SetStatistic(lambda weights: weights @ values / weights.sum(1), NUM)

    near, far = (scores("report->frontal", more={"kernel/demo": of(mean)}) for mean in (1.0, 2.0))
    for first, second, not_worse, first_is in ((near, far, True, "better"), (far, near, False, "worse")):
        systems = {name: {one.direction: one} for name, one in (("one", first), ("two", second))}
        (test,) = system_tests(systems, PATIENTS, CONFIG).tests
        assert test["systems"] == ["one", "two"] and test["p_holm"] is None
        assert (test["not_worse"], test["first_is"]) == (not_worse, first_is)


@pytest.mark.parametrize(
    ("metric", "difference", "p_holm", "not_worse", "first_is"),
    [
        ("finding_macro_f1", (0.1, 0.05, 0.15), 0.2, True, "alike"),  # the interval alone does not tell them apart
        ("finding_macro_f1", (0.1, 0.05, 0.15), 0.01, True, "better"),
        ("finding_macro_f1", (-0.1, -0.15, -0.05), 0.01, False, "worse"),
        ("finding_macro_f1", (-0.1, -0.2, 0.01), 0.4, True, "alike"),
        ("frechet/demo", (0.1, 0.05, 0.15), None, False, "worse"),
        ("frechet/demo", (0.1, -0.05, 0.15), None, True, "alike"),
        ("recall/demo", (0.1, 0.05, 0.15), None, True, "better"),
        ("ms_ssim", (0.1, 0.05, 0.15), 0.01, None, "alike"),  # neither way is better
    ],
)
def test_what_a_test_says(
    metric: str, difference: tuple[float, ...], p_holm: float | None, not_worse: bool | None, first_is: str
) -> None:
    told = dict(zip(("value", "low", "high"), difference, strict=True))
    assert judgement({"metric": metric, "difference": told, "p_holm": p_holm}) == {
        "not_worse": not_worse,
        "first_is": first_is,
    }


def test_means_are_still_tested_by_exchange() -> None:
    low, high = (
        scores("report->frontal", more={"precision": MeanStatistic(np.full(NUM, value))}) for value in (0.2, 0.7)
    )
    systems = {"one": {high.direction: high}, "two": {low.direction: low}}
    assert system_tests(systems, PATIENTS, CONFIG).tests[0]["p_value"] < 0.01


def test_common_rows_are_in_every_list() -> None:
    assert common_rows([[3, 1, 2], [2, 3, 9]]) == [2, 3] and common_rows([]) == []
