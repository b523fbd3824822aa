"""Figures as they are stored: what is unknown is null, what is left out has its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.evaluation.scoring.figures import TargetScores, figure_record, flag, plain, value_of
from medcodi.evaluation.scoring.statistics import MeanStatistic
from medcodi.metrics.bootstrap import Interval


def test_unknown_numbers_are_null() -> None:
    assert [plain(number) for number in (None, np.nan, np.inf, np.float32(0.5))] == [None, None, None, 0.5]
    assert figure_record(None) == {"value": None, "low": None, "high": None, "ceiling": None, "floor": None}
    record = figure_record(Interval(0.5, 0.4, np.nan), ceiling=0.9, floor=Interval(0.1, 0, 1), pairs=3)
    assert record == {"value": 0.5, "low": 0.4, "high": None, "ceiling": 0.9, "floor": 0.1, "pairs": 3}


def test_a_figure_has_the_values_of_its_statistics() -> None:
    scores, weights = TargetScores(), np.ones((100, 4))
    value, best = MeanStatistic(np.array([0.0, 1, 1, np.nan])), MeanStatistic(np.ones(4))
    scores.add("precision", value, weights, ceiling=best, floor=0.25, k=5)
    figure = scores.metrics["precision"]
    assert figure["value"] == figure["low"] == pytest.approx(2 / 3) and figure["k"] == 5
    assert (figure["ceiling"], figure["floor"]) == (1.0, 0.25)
    assert scores.ceilings == {"precision": best} and scores.floors == {}
    assert value_of(value.statistic(), 4) == pytest.approx(2 / 3)


def test_what_needs_more_studies_is_listed() -> None:
    scores = TargetScores()
    assert scores.enough("kernel/demo", 4, 4, "a distance") and not scores.left_out
    assert not scores.enough("kernel/demo", 4, 3, "a distance")
    assert scores.left_out == [
        {
            "metric": "kernel/demo",
            "reason": "a distance needs at least 4 studies; there are 3",
            "needed": 4,
            "available": 3,
        }
    ]


def test_flags_name_the_first_studies() -> None:
    assert flag([False, False], ["a", "b"]) is None
    assert flag([True] * 7, list("abcdefg")) == {"count": 7, "studies": list("abcde")}
