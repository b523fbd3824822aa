"""The summary of results: shares, sides, two prompts beside the better one, agreement; the same for a terminal."""

from __future__ import annotations

from typing import Any

from medcodi.evaluation.pages.summary import against_better, summary_table, terminal_table
from medcodi.evaluation.pages.verdict import verdict


def figure(value: float, ceiling: float | None = None, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "ceiling": ceiling, "floor": None, **more}


def direction(prompts: list[str], targets: list[str], f1: float) -> dict[str, Any]:
    primary = {
        "model": figure(f1), "shuffled": figure(0.2), "ceiling": 0.9, "difference": figure(f1 - 0.2),
        "fraction_of_ceiling": f1 / 0.9, "fraction_low": f1 / 0.9 - 0.03, "fraction_high": f1 / 0.9 + 0.03,
        "beats_shuffled": True, "prompt_reader": figure(0.85),
    }  # fmt: skip
    pair = {
        "+".join(targets): {
            "metrics": {"finding_kappa": figure(0.7, 0.75, share_of_ceiling=0.7 / 0.75)},
            "left_out": [],
        }
    }
    return {
        "prompts": prompts,
        "num_studies": 400,
        "primary": primary,
        "targets": {name: {"metrics": {"side_accuracy": figure(0.97, 0.99)}} for name in targets},
        "coherence": pair if len(targets) > 1 else {},
    }


def results() -> dict[str, Any]:
    test = {"system": "demo", "direction": "lateral+report->frontal", "target": "all", "not_worse": True}
    tests = [
        {**test, "against": "report->frontal", "difference": figure(0.05), "against_better": True},
        {**test, "against": "lateral->frontal", "difference": figure(0.2), "against_better": False},
    ]
    directions = {
        "report->frontal": direction(["report"], ["frontal"], 0.81),
        "lateral+report->frontal": direction(["lateral", "report"], ["frontal"], 0.86),
        "report->frontal+lateral": direction(["report"], ["frontal", "lateral"], 0.75),
        "->report": {**direction([], ["report"], 0.2), "targets": {"report": {"metrics": {}}}},
    }
    return {"systems": {"demo": {"directions": directions}}, "comparisons": {"multi_prompt": tests, "systems": []}}


def test_each_row_says_what_decides() -> None:
    columns, told = terminal_table(results())
    rows = {row[0]: dict(zip(columns, row, strict=True)) for row in told}
    assert {"ceiling", "prompts shuffled"} == {*summary_table(results()).columns} - {*columns, "studies"}
    two = rows["lateral + report → frontal"]
    assert two["of ceiling"] == "96 %\n[93, 99 %]" and two["legible in the prompt"].startswith("0.850")
    assert two["two prompts − better one"].startswith("+0.050\n[0.030") and two["side right"].startswith("97 %")
    assert two["follows the prompt"].startswith("yes\n+0.660")
    joint = rows["report → frontal + lateral"]
    assert joint["targets agree, of real"] == "93 %" and joint["side right"].startswith("97 % · 97 %")
    blind = rows["nothing → report"]
    assert blind["of ceiling"] == blind["side right"] == blind["targets agree, of real"] == "–"


def test_the_verdict_tells_sides_agreement_and_the_better_prompt() -> None:
    told = results()
    assert [test["against"] for test in against_better(told)] == ["report->frontal"]
    text = "\n".join(verdict(told))
    assert "in 1 of 1 directions, and clearly better in 1" in text
    assert "side of a finding is right in 97 % (in real targets: 99 %)" in text
    assert "agree (κ) to 93 % of what real pairs give" in text
