"""The summary of results: shares, sides, two prompts beside the better one, agreement; the same for a terminal."""

from __future__ import annotations

from medcodi.evaluation.report.alarms import alarms
from medcodi.evaluation.report.summary import against_better, summary_table, terminal_table, verdict
from medcodi.evaluation.report.tables import comparison_table
from tests.unit.evaluation.report.conftest import results


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


def test_what_must_not_be_overlooked() -> None:
    stored = results()
    stored["data"], stored["excluded"] = {"num_studies": 400, "phantoms": True}, []
    stored["systems"]["demo"]["coverage"] = {"report->frontal": {"given": 12, "scored": 9, "usable": 12}}
    (line,) = alarms(stored)
    assert line.startswith("demo, report → frontal: 12 of 12 studies were given, and the 9 that all systems have")
    stored["data"]["num_studies"], stored["excluded"] = 12, [{}]
    assert [line.split()[0] for line in alarms(stored)] == ["demo,", "1", "Only"]


def test_odd_contents_and_directions_left_out_are_warned_of() -> None:
    told = results() | {"data": {"num_studies": 400}, "excluded": []}
    told["systems"]["demo"]["coverage"] = {}
    told["systems"]["demo"]["directions"]["->report"]["targets"]["report"]["flags"] = {
        "no language": {"count": 400, "studies": []}, "empty": {"count": 2, "studies": []},
    }  # fmt: skip
    entry = {"system": "demo", "direction": "lateral->report", "reason": "3 of 400 studies hold all of it"}
    told["directions_left_out"] = [{**entry, "available": 3, "needed": 4}]
    odd, left_out = alarms(told)
    assert odd == "demo, nothing → report: 400 of 400 contents of report are no language."
    assert left_out.startswith("demo, lateral → report: left out, 3 of 400 studies hold all of it (at least 4")
    assert "directions=[...]" in left_out
