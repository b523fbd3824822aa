"""Numbers and names as they are written; the headline of a direction."""

from __future__ import annotations

import pytest

from medcodi.evaluation.report.alarms import alarms
from medcodi.evaluation.report.summary import terminal_table, verdict
from medcodi.evaluation.report.wording import (
    beside_macro,
    counted_findings,
    interval,
    number,
    percent,
    pretty,
    share,
    share_of_ceiling,
    signed,
    title,
)
from tests.unit.evaluation.report.conftest import direction, results


def test_numbers_have_the_digits_that_matter() -> None:
    values = (None, 0, 0.0004, 0.98765, 12.345, -0.5)
    assert [number(value) for value in values] == ["–", "0.000", "4.0e-04", "0.988", "12.3", "-0.500"]
    assert [signed(value) for value in (None, 0.5, -0.5)] == ["–", "+0.500", "−0.500"]
    assert (percent(0.934), percent(None), percent(0.934, "")) == ("93 %", "–", "93")
    assert (
        interval({"low": 0.69, "high": 0.731}) == "[0.690, 0.731]" and interval({"low": None}) == interval(None) == ""
    )


def test_directions_and_metrics_have_titles() -> None:
    assert (
        pretty("frontal+report->lateral") == "frontal + report → lateral" and pretty("->report") == "nothing → report"
    )
    assert title("frechet/xrv") == "Fréchet distance (xrv) ↓" and title("ms_ssim") == "MS-SSIM between patients"


@pytest.mark.parametrize(
    ("value", "floor", "ceiling", "better", "expected"),
    [
        (0.5, 0.0, 1.0, "up", 0.5),
        (2.0, 3.0, 1.0, "down", 0.5),
        (0.5, 0.5, 0.51, "up", None),  # floor and ceiling are too near
        (2.0, 1.0, 3.0, "down", None),  # the ceiling is worse than the floor
        (0.5, 0.0, 1.0, "", None),
        (0.5, None, 1.0, "up", None),
    ],
)
def test_a_share_is_between_floor_and_ceiling(value, floor, ceiling, better, expected) -> None:
    assert share({"value": value, "floor": floor, "ceiling": ceiling}, better) == expected


def finding(target: dict, *names: str) -> None:
    target["findings"] = {name: {"f1": 0.8} for name in names}


def test_a_macro_f1_never_stands_alone() -> None:
    """Beside it: how many findings it is the mean of, the micro F1, and the floor."""
    told = results()
    for scores in told["systems"]["demo"]["directions"].values():
        for target in scores["targets"].values():
            finding(target, "Edema", "Pleural Effusion", "Pleural Effusion/left")
            target["metrics"]["finding_micro_f1"] = {"value": 0.7}
    (headline, *_) = verdict(told)
    assert headline.endswith(
        ": macro F1 0.810, micro F1 0.700, prompts shuffled 0.200, over 2 of 14 findings per target."
    )
    columns, rows = terminal_table(told)
    texts = {row[0]: row[columns.index("finding F1")] for row in rows}
    assert texts["report → frontal"].endswith("2 findings\nmicro 0.700")
    assert texts["report → frontal + lateral"].endswith("2 · 2 findings\nmicro 0.700")


def test_no_share_of_the_ceiling_without_following_the_prompts() -> None:
    told = results()
    directions = told["systems"]["demo"]["directions"]
    directions["report->frontal"]["primary"]["beats_shuffled"] = False
    assert "2 of 3 directions follow" in verdict(told)[0] and "what 2 of them show is right to 89 %" in verdict(told)[0]
    columns, rows = terminal_table(told)
    assert {row[0]: row[columns.index("of ceiling")] for row in rows}["report → frontal"] == "–\nnot above its floor"
    for scores in directions.values():
        scores["primary"]["beats_shuffled"] = False if scores["prompts"] else None
    (headline, *_) = verdict(told)
    assert headline.endswith("no share of what real studies allow is stated, because none is above its floor.")
    assert not any("%" in row[columns.index("of ceiling")] for row in terminal_table(told)[1])


def test_no_finding_alone_makes_no_headline() -> None:
    told = results()
    directions = told["systems"]["demo"]["directions"]
    for scores in directions.values():
        for target in scores["targets"].values():
            finding(target, "No Finding")
    assert "%" not in verdict(told)[0] and verdict(told)[0].endswith("because only No Finding counts.")
    told |= {"data": {"num_studies": 400}, "excluded": []}
    told["systems"]["demo"]["coverage"] = {}
    assert sum("only No Finding counts" in line for line in alarms(told)) == 5  # each target of each direction


def test_a_share_is_stated_where_it_was_earned_and_the_reason_where_not() -> None:
    scores = direction(["report"], ["frontal"], 0.81)
    assert share_of_ceiling(scores) == (0.81 / 0.9, "") and counted_findings(scores) == {} and not beside_macro(scores)
    finding(scores["targets"]["frontal"], "No Finding")
    assert share_of_ceiling(scores) == (None, "only No Finding counts") and beside_macro(scores) == "only No Finding"
    finding(scores["targets"]["frontal"], "No Finding", "Edema", "Edema/left")
    assert counted_findings(scores) == {"frontal": ["No Finding", "Edema"]} and share_of_ceiling(scores)[0] is not None
    scores["primary"]["beats_shuffled"] = False
    assert share_of_ceiling(scores) == (None, "not above its floor")
    assert share_of_ceiling(direction([], ["frontal"], 0.81)) == (None, "")
