"""Rows are parsed by the types of the schema, and refused by line."""

from __future__ import annotations

import codecs
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
    parse_result,
    read_row,
    spreadsheet_text,
    text_of_cell,
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


RESULT = {
    "format": 1,
    "kind": RESULT_KIND,
    "bundle_id": "b",
    "reader": "r",
    "sessions": [],
    "answers": [{"position": 0}],
}


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reader": 3}, "reader is 3, not a text"),
        ({"sessions": {}}, "sessions is {}, not a list"),
        ({"sessions": [4]}, r"sessions\[0\] is 4, not an object"),
        ({"sessions": [{"started": ["x"]}]}, r"sessions\[0\].started is \[\"x\"\], not a text"),
        ({"answers": [{"position": True}]}, r"answers\[0\].position is true, not a whole number"),
        ({"answers": [{"position": 0}, {"seconds": {}}]}, r"answers\[1\].seconds is {}"),
        ({"answers": [{"seconds": float("nan")}]}, r"answers\[0\].seconds is NaN, not a number up to"),
        ({"answers": [{"value": {"rating": float("inf")}}]}, r"answers\[0\].value.rating is Infinity"),
        ({"environment": {"screen": [10**400]}}, r"environment.screen\[0\] is a huge number"),
        ({"answers": [{"free_text": "a \ud800 b"}]}, r"answers\[0\].free_text is no valid text"),
        ({"answers": [{"free_text": "a" * 200_000}]}, r"answers\[0\].free_text is no valid text"),
        ({"environment": {"\udfff": 1}}, "environment has a name that is no valid text"),
        ({"environment": nested(50)}, "nested more than 8 deep"),
        ({"consent": [1]}, r"consent is \[1\], not an object"),
    ],
)
def test_an_invalid_field_of_a_result_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_result(json.dumps(RESULT | change).encode())


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"a":' * 100_000, b"{", b"\xff\xfe", b"[]", b"1" * 5000, b'{"a": 1e999}']
)
def test_what_is_no_result_is_refused_without_a_traceback(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_result(data)


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_result(codecs.BOM_UTF8 + json.dumps(RESULT).encode()) == RESULT


@pytest.mark.parametrize("text", ["=1+1", "+49", "-", "@x", "\t=x", "'=x", "''@", "'quoted'", "plain = text", ""])
def test_a_cell_is_no_formula_and_reads_back(text: str) -> None:
    cell = spreadsheet_text(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) and text_of_cell(cell) == text
    assert cell == text or text.lstrip("'")[0] in "=+-@\t"


def test_no_text_of_the_table_is_a_formula_and_all_read_back(tmp_path: Path) -> None:
    texts = {
        "reader": "=1+1",
        "task": "+t",
        "item": "-i",
        "case": "@SUM(A1)",
        "patient": "\tp",
        "arm": "real",
        "free_text": "'=x",
    }
    write_rows(
        tmp_path / "t.csv", [{**texts, "kind": "rating", "seconds": -1.5, "findings_reader": {"Edema": "present"}}]
    )
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        (cells,) = csv.DictReader(file)
    assert not [
        name for name, cell in cells.items() if name != "seconds" and cell.startswith(("=", "+", "-", "@", "\t"))
    ]
    row = read_row(cells, 2, "t.csv")
    assert {name: row[name] for name in texts} == texts and row["seconds"] == -1.5
