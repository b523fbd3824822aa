"""Rows are parsed by the types of the schema, and refused by line."""

from __future__ import annotations

import csv
import json
import math
from importlib.resources import files
from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.turing.answers.schema import (
    ANSWER_FIELDS,
    COLUMNS,
    REQUIRED,
    RESULT_FIELDS,
    RESULT_KIND,
    mark_value,
    read_row,
    write_rows,
)
from medcodi.turing.answers.table import answers_from_rows
from tests.unit.turing.simulated_rows import simulated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ratings"}, "did you mean 'rating'"),
        ({"rating": "four"}, "rating is 'four'"),
        ({"practice": "maybe"}, "practice is 'maybe'"),
        ({"findings_reader": "Edema"}, "JSON such as"),
        ({"case": ""}, "case is empty"),
        ({"item": "item-001"}, "twice"),
    ],
)
def test_rows_that_cannot_be_read_are_named(change: dict[str, str], message: str) -> None:
    rows = [row for row in simulated() if row["task"] == "realism"]
    rows[0] = {**rows[0], **change}
    with pytest.raises(DataError, match=message):
        answers_from_rows(rows)


def test_a_row_is_typed_by_its_columns() -> None:
    cells = {
        "reader": "r",
        "task": "t",
        "kind": "rating",
        "item": "i",
        "case": 7,
        "arm": "real",
        "rating": "4",
        "practice": "True",
    }
    row = read_row(cells | {"findings_truth": '{"Edema": "absent"}'}, 5, "table")
    assert tuple(row) == COLUMNS
    assert (row["case"], row["rating"], row["practice"], row["findings_truth"]) == ("7", 4.0, True, {"Edema": "absent"})
    assert (row["choice"], row["findings_reader"], row["position"]) == (
        "",
        {},
        5.0,
    )  # without one: the order of the table
    assert math.isnan(row["confidence"]) and math.isnan(row["correct"])


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    cells = {"reader": "r", "task": "t", "kind": "findings", "item": "i", "case": "c", "arm": "real", "position": 3}
    cells |= {"findings_reader": {"b": "present", "a": "absent"}, "free_text": 'thin, "lines"\nbelow', "rating": None}
    write_rows(tmp_path / "answers.csv", [cells])
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert tuple(header) == COLUMNS and len(lines) == 1
    again = read_row(dict(zip(header, lines[0], strict=True)), 2, "table")
    assert again["findings_reader"] == cells["findings_reader"] and again["free_text"] == cells["free_text"]
    assert again["position"] == 3.0 and math.isnan(again["rating"])


@pytest.mark.parametrize("column", REQUIRED)
def test_a_required_column_or_cell_that_is_missing_is_named(column: str) -> None:
    cells = {name: "rating" if name == "kind" else "x" for name in REQUIRED}
    with pytest.raises(DataError, match=f"line 9: {column} is empty"):
        read_row(cells | {column: ""}, 9, "table")
    with pytest.raises(DataError, match=f"no column '{column}'"):
        read_row({name: cell for name, cell in cells.items() if name != column}, 9, "table")


def test_marks_have_one_value_in_every_spelling() -> None:
    assert [mark_value(mark) for mark in ("present", "Absent", 1, "0", True, "negative")] == [1, 0, 1, 0, 1, 0]
    assert math.isnan(mark_value("unsure")) and math.isnan(mark_value(None))


def test_the_viewer_writes_every_field_that_the_import_requires() -> None:
    source = (files("medcodi.turing") / "viewer" / "session.js").read_text(encoding="utf-8")
    source += (files("medcodi.turing") / "viewer" / "checksum.js").read_text(encoding="utf-8")
    assert json.dumps(RESULT_KIND) in source
    assert [name for name in (*RESULT_FIELDS, *ANSWER_FIELDS) if name not in source] == []
