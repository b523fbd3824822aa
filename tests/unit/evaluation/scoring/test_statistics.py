"""Statistics of studies: restricted to common studies and compared, they stay the figures they were."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.evaluation.scoring.statistics import (
    AreaStatistic,
    BleuStatistic,
    F1Statistic,
    MeanStatistic,
    NotComparableError,
    RatioStatistic,
    SetStatistic,
    StudyStatistic,
    compare,
)
from medcodi.metrics import TextScorer
from medcodi.metrics.findings import Confusion

NUM = 24
PATIENTS = [f"p{index % 12}" for index in range(NUM)]
WORDS = ["no effusion", "small left effusion", "the heart is large", "clear lungs today"]


def statistics(seed: int) -> dict[str, StudyStatistic]:
    draw = np.random.default_rng(seed)
    truth = (np.random.default_rng(9).random((NUM, 3)) < 0.5).astype(float)
    confusion = Confusion.of(truth, (draw.random((NUM, 3)) < 0.5).astype(float))
    values = draw.random(NUM)
    told = tuple(f"{WORDS[index]} seen" for index in draw.integers(0, 4, NUM))
    references = tuple(f"{WORDS[index]} seen" for index in np.random.default_rng(8).integers(0, 4, NUM))
    found: dict[str, StudyStatistic] = {
        "means": MeanStatistic(values),
        "ratio": RatioStatistic(values, draw.integers(1, 3, NUM).astype(float)),
        "macro": F1Statistic((confusion, confusion), "macro_f1", (("a", "b", "c"), ("d", "e", "f"))),
        "auroc": AreaStatistic(truth, draw.random((NUM, 3)), "auroc", ("a", "b", "c")),
        "whole": SetStatistic(lambda weights: weights @ values**2 / weights.sum(1), NUM),
    }
    pytest.importorskip("pycocoevalcap")
    return found | {"bleu": BleuStatistic(told, references, "bleu_2", TextScorer(meteor=False))}


@pytest.mark.parametrize("name", ["means", "ratio", "macro", "auroc", "whole", "bleu"])
def test_cut_stacked_and_compared(name: str) -> None:
    first, second = statistics(0)[name], statistics(1)[name]
    rows = list(range(2, 22))
    weights = np.zeros((1, NUM))
    weights[0, rows] = 1
    np.testing.assert_allclose(first.take(rows).statistic()(np.ones((1, 20))), first.statistic()(weights))
    stacked = first.stacked(second)
    if stacked is not None:
        for place, one in enumerate((first, second)):
            chosen = np.zeros((1, 2 * NUM))
            chosen[0, place * NUM : (place + 1) * NUM] = 1
            np.testing.assert_allclose(stacked(chosen), one.statistic()(np.ones((1, NUM))))
    test = compare(first, second, PATIENTS, 0, 100, 100)
    assert test["num_patients"] == 12
    ones = np.ones((1, NUM))
    gap = float(first.statistic()(ones)[0] - second.statistic()(ones)[0])
    assert test["difference"]["value"] == pytest.approx(gap)
    assert test["difference"]["low"] <= gap <= test["difference"]["high"]
    assert (test["p_value"] is None) == (name == "whole")


def test_a_clear_difference_is_told_and_none_is_not() -> None:
    draw = np.random.default_rng(0)
    low, high = MeanStatistic(draw.random(NUM)), MeanStatistic(draw.random(NUM) + 1)
    clear, same = (compare(high, other, PATIENTS, 0, 200, 400) for other in (low, high))
    assert clear["p_value"] < 0.01 and clear["difference"]["low"] > 0.5
    assert same["p_value"] == 1 and same["difference"]["value"] == 0


def test_what_is_not_the_same_figure_is_not_compared() -> None:
    made = statistics(0)
    rare = SetStatistic(lambda weights: weights.sum(1), NUM, resamples=20)
    unknown = MeanStatistic(np.full(NUM, np.nan))
    other = AreaStatistic(np.eye(NUM)[:, :1], np.eye(NUM)[:, :1], "auroc", ("g",))
    for first, second, reason in (
        (made["means"], made["ratio"], "not the same figure: MeanStatistic and RatioStatistic"),
        (rare, rare, "at least 100 resamples; there are 20"),
        (made["means"], unknown, "no figure of the second on the 24 common studies"),
        (made["auroc"], other, "count 3 and 1 findings, none of them in common"),
    ):
        with pytest.raises(NotComparableError, match=reason):
            compare(first, second, PATIENTS, 0, 100, 100)


@pytest.mark.parametrize("name", ["macro", "auroc"])
def test_figures_of_findings_are_compared_on_those_that_both_count(name: str) -> None:
    whole, other = statistics(0)[name], statistics(1)[name]
    assert isinstance(whole, F1Statistic | AreaStatistic) and isinstance(other, F1Statistic | AreaStatistic)
    test = compare(whole.of_findings({"a", "c"}), other.of_findings({"b", "c", "e"}), PATIENTS, 0, 100, 100)
    both = compare(whole.of_findings({"c"}), other.of_findings({"c"}), PATIENTS, 0, 100, 100)
    left_out = ["a", "b"] + ["e"] * (name == "macro")
    assert both == {**test, "findings_left_out": []} and test["findings_left_out"] == left_out
    assert test["findings"] == 1 and test["p_value"] is not None
    assert test["first"] != compare(whole, other, PATIENTS, 0, 100, 100)["first"]
