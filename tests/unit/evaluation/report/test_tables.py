"""Tables of the page: the matrix, findings, and lists."""

from __future__ import annotations

from medcodi.evaluation.report.tables import (
    coherence_table,
    comparison_table,
    excluded_table,
    finding_tables,
    flag_table,
    left_out_table,
    matrix_table,
    provenance_tables,
)
from tests.unit.evaluation.report.conftest import figure, results


def test_what_was_not_compared_is_listed_with_its_numbers() -> None:
    told = results()
    lost = {"system": "demo", "direction": "frontal+report->lateral", "against": "frontal->lateral", "target": "all"}
    told["comparisons"]["left_out"] = [
        {**lost, "metric": "finding_macro_f1", "reason": "none in common", "needed": 100, "available": 9},
        {**lost, "metric": "kernel/demo", "target": "lateral", "reason": "why not", "needed": 20, "available": 3},
    ]
    systems = {"systems": ["demo", "other"], "direction": "report->frontal", "target": "all"}
    told["comparisons"]["left_out"].append({**systems, "metric": "every figure", "reason": "too few"})
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


def test_odd_and_excluded_contents_are_listed_if_there_are_any() -> None:
    told = results()
    targets = [target for one in told["systems"]["demo"]["directions"].values() for target in one["targets"].values()]
    for target in targets:
        target["flags"] = {}
    assert flag_table(told) is None and excluded_table({"excluded": []}) is None and comparison_table([], "x") is None
    targets[0]["flags"] = {"black": {"count": 7, "studies": list("abcde")}}
    table = flag_table(told)
    assert table is not None
    assert [cell.text for cell in table.cells()[0]][-3:] == ["black", "7 of 400", "a, b, c, d, e …"]
    excluded = excluded_table({"excluded": [{"system": "real", "study_id": "s1", "what": "study", "reason": "cut"}]})
    assert excluded is not None and [cell.text for cell in excluded.cells()[0]] == ["real", "s1", "study", "cut"]


def test_pairs_of_targets_have_their_share_of_the_ceiling() -> None:
    table = coherence_table(results())
    assert table is not None and table.cells()[0][1].text == "frontal and lateral"
    assert table.cells()[0][2].below.endswith("93 % of real pairs")


def test_everything_the_figures_depend_on_is_flat() -> None:
    parts = {name: {} for name in ("preprocessing", "scoring", "config")}
    told = {**results(), **parts, "data": {"name": "toy", "sizes": {"image": [32, 48]}}, "versions": {"torch": "2"}}
    told["readers"] = {"images": {"name": "demo", "measured": {"a": 1}}, "encoder": None}
    tables = {
        table.columns[0]: [[cell.text for cell in row] for row in table.cells()] for table in provenance_tables(told)
    }
    assert tables["data"] == [["name", "toy"], ["sizes.image", "32, 48"]] and tables["versions"] == [["torch", "2"]]
    assert tables["readers"] == [["images.name", "demo"]]
