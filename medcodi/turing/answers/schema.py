"""Schema of an answer: the columns of the table of answers, their types, and the fields of the results files that the viewer writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, get_type_hints

from medcodi.errors import DataError, did_you_mean
from medcodi.turing.design.tasks import TASK_KINDS

TABLE, FACTS = "answers.csv", "import.json"
# Fields of a results file, and of each of its answers (viewer/session.js writes them).
RESULT_KIND = "medcodi-turing-results"
RESULT_FIELDS = (
    "format", "kind", "bundle_id", "reader", "key_sha256", "study_sha256", "sessions", "answers", "checksum",
)  # fmt: skip
ANSWER_FIELDS = ("position", "trial", "task", "practice", "value", "seconds", "answered_at")
MARKS = {"present": 1.0, "absent": 0.0}  # a finding of a checklist
# Other spellings of a mark, in tables that other programs write.
_MARKS = MARKS | {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0, "positive": 1.0, "negative": 0.0}
_FLAGS = {"1": True, "true": True, "yes": True, "": False, "0": False, "false": False, "no": False}


class AnswerRow(TypedDict):
    """One row of the table of answers, in the order of its columns. Missing text is "", missing numbers are NaN."""

    reader: str
    position: float  # of the trial, from 0
    trial: str  # random id of the trial
    task: str
    kind: str  # kind of task
    item: str
    case: str  # study id
    patient: str
    arm: str
    practice: bool
    repeat_of: str  # item that this one repeats
    rating: float
    choice: str
    confidence: float
    correct: float  # 1 right, 0 wrong, NaN where nothing is right
    findings_reader: dict[str, str]  # finding -> present or absent
    findings_truth: dict[str, str]  # the same, of the findings whose truth is known
    free_text: str
    seconds: float
    answered_at: str  # ISO time


NumberColumn = Literal["position", "rating", "confidence", "correct", "seconds"]
_TYPES = get_type_hints(AnswerRow)
COLUMNS = tuple(_TYPES)
REQUIRED = ("reader", "task", "kind", "item", "case", "arm")


def read_row(cells: Mapping[str, Any], number: int, source: str) -> AnswerRow:
    """Parse one row, from the cells of a CSV file or from values; columns that are not required may be absent.

    Raises:
        DataError: If a required column or cell is missing, or a cell is invalid; names the line.
    """
    if missing := [name for name in REQUIRED if name not in cells]:
        raise DataError(
            f"{source} has no column {missing[0]!r}",
            expected="columns " + ", ".join(REQUIRED),
            fix=f"use the {TABLE} that medcodi turing import writes",
        )
    where = f"{source}, line {number}"
    row: Any = {name: _parse(cells.get(name), kind, f"{where}: {name}") for name, kind in _TYPES.items()}
    if empty := next((name for name in REQUIRED if not row[name]), None):
        raise DataError(f"{where}: {empty} is empty", expected="a value", fix="correct the row")
    if row["kind"] not in TASK_KINDS:
        raise DataError(f"{where}: unknown kind of task {row['kind']!r}", fix=did_you_mean(row["kind"], TASK_KINDS))
    if row["position"] != row["position"]:  # NaN: the order of the table
        row["position"] = float(number)
    return row


def _parse(cell: Any, kind: Any, where: str) -> Any:
    """Value of one cell by the type of its column."""
    if kind is str:
        return str(cell or "")
    if kind is float:
        try:
            return float("nan") if cell is None or cell == "" else float(cell)
        except (TypeError, ValueError):
            raise DataError(f"{where} is {cell!r}", expected="a number, or nothing", fix="correct it") from None
    if kind is bool:
        text = str(cell or "").strip().lower()
        if text not in _FLAGS:
            raise DataError(f"{where} is {text!r}", expected="1 or 0", fix="correct it")
        return _FLAGS[text]
    try:
        marks = dict(cell) if isinstance(cell, Mapping) else json.loads(cell) if cell else {}
    except json.JSONDecodeError:
        marks = None
    if not isinstance(marks, dict):
        raise DataError(f"{where} is {cell!r}", expected='JSON such as {"Edema": "present"}', fix="correct it")
    return marks


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table; absent and None cells stay empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            cells = [row.get(name) for name in COLUMNS]
            writer.writerow(json.dumps(cell, sort_keys=True) if isinstance(cell, Mapping) else cell for cell in cells)


def mark_value(mark: Any) -> float:
    """1 for a finding marked as present, 0 as absent, NaN for anything else."""
    return _MARKS.get(str(mark).lower(), float("nan"))
