"""The summary of results: shares, sides, two prompts beside the better one, agreement; the same for a terminal."""

from __future__ import annotations

from typing import Any

from medcodi.evaluation.pages.lists import left_out_table
from medcodi.evaluation.pages.summary import against_better, summary_table, terminal_table
from medcodi.evaluation.pages.tables import comparison_table, finding_tables, matrix_table
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
    test = {"system": "demo", "direction": "lateral+report->frontal", "target": "all", "metric": "finding_macro_f1"}
    test |= {"not_worse": True, "first_is": "better"}
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
    return {
        "systems": {"demo": {"directions": directions}},
        "comparisons": {"multi_prompt": tests, "systems": [], "left_out": []},
    }


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
    assert "no loss shown (interval reaches 0) in 1 of 1 directions; better in 1, worse in 0" in text
    assert "side of a finding is right in 97 % (in real targets: 99 %)" in text
    assert "agree (κ) to 93 % of what real pairs give" in text


def test_a_difference_is_painted_where_the_test_tells_it_and_not_by_its_interval() -> None:
    told = results()
    test = told["comparisons"]["multi_prompt"][0]
    assert test["difference"]["low"] > 0
    shades = {}
    for verdict_of_test in ("better", "alike", "worse"):
        test["first_is"] = verdict_of_test
        table = summary_table(told)
        place = list(table.columns).index("two prompts − better one")
        shades[verdict_of_test] = {row[0].text: row[place] for row in table.cells()}["lateral + report → frontal"].shade
        compared = comparison_table([{**test, "first": 0.8, "second": 0.75, "p_value": 0.2, "p_holm": 0.2}], "against")
        assert compared is not None and compared.cells()[0][-1].shade == shades[verdict_of_test]
    assert shades == {"better": 1.0, "alike": None, "worse": 0.0}


def test_a_direction_that_reaches_nothing_counts() -> None:
    told = results()
    told["systems"]["demo"]["directions"]["report->frontal"]["primary"]["fraction_of_ceiling"] = 0.0
    assert "from 0 % (report → frontal)" in verdict(told)[0]


def test_what_was_not_compared_is_said() -> None:
    told = results()
    lost = {"system": "demo", "direction": "frontal+report->lateral", "against": "frontal->lateral", "target": "all"}
    told["comparisons"]["left_out"] = [
        {**lost, "metric": "finding_macro_f1", "reason": "none in common", "needed": 100, "available": 9},
        {**lost, "metric": "kernel/demo", "target": "lateral", "reason": "why not", "needed": 20, "available": 3},
    ]
    systems = {"systems": ["demo", "other"], "direction": "report->frontal", "target": "all"}
    told["comparisons"]["left_out"].append({**systems, "metric": "every figure", "reason": "too few"})
    said = "\n".join(verdict(told))
    assert "1 could not be set against all of their single prompts" in said
    assert "demo against other: 0 directions better" in said and "; 1 could not be compared" in said
    for system in told["systems"].values():
        for scores in system["directions"].values():
            for target in scores["targets"].values():
                target["left_out"] = []
    table = left_out_table(told)
    assert table is not None
    rows = [[cell.text for cell in row] for row in table.cells()]
    assert rows[0][0] == "frontal + report → lateral, against frontal → lateral"
    assert rows[0][2] == "paired test: finding F1, macro ↑" and rows[0][-1] == "none in common"
    assert sorted(cell.value or 0 for cell in (row[3] for row in table.cells())) == [0, 20, 100]  # numbers, not words


def test_halves_stand_between_value_and_ceiling() -> None:
    told = results()
    metrics = told["systems"]["demo"]["directions"]["report->frontal"]["targets"]["frontal"]["metrics"]
    metrics["kernel/demo"] = figure(0.004, 0.001, halves=0.002)
    table = matrix_table(told, "image", ("images",))
    assert table is not None
    assert "h 0.002 · c 0.001" in next(row[-1].below for row in table.cells() if row[-1].below)


def test_ceilings_of_findings_are_those_of_their_own_direction() -> None:
    told = results()
    one = {"f1": 0.5, "low": 0.4, "high": 0.6, "floor_f1": 0.1}
    directions = told["systems"]["demo"]["directions"]
    for scores in directions.values():
        for target in scores["targets"].values():
            target["findings"] = {}
    first, second = (directions[name]["targets"]["frontal"] for name in list(directions)[:2])
    first["findings"] = {"Edema": {**one, "positives": 40.0, "ceiling_f1": 0.9}}
    second["findings"] = {"Edema": {**one, "positives": 31.0, "ceiling_f1": 0.8}}
    row = finding_tables(told)[0].cells()[0]
    assert [cell.text for cell in row[:3]] == ["Edema", "31 to 40", "0.800 to 0.900"]
    assert "c 0.900" in row[3].below and "c 0.800" in row[4].below
