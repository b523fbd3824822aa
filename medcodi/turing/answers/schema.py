"""Schema of an answer: the columns of the table of answers, their types, and the fields of the results files that the viewer writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, get_type_hints

from medcodi.data.tables import spreadsheet_text, text_of_cell
from medcodi.errors import DataError, did_you_mean
from medcodi.turing.design.tasks import TASK_KINDS

TABLE, FACTS = "answers.csv", "import.json"
# Fields of a results file, and of each of its answers (viewer/session.js writes them).
RESULT_KIND = "medcodi-turing-results"
RESULT_FIELDS = (
    "format", "kind", "bundle_id", "reader", "key_sha256", "study_sha256", "sessions", "answers", "checksum",
)  # fmt: skip
ANSWER_FIELDS = ("position", "trial", "task", "practice", "value", "seconds", "answered_at")
# Types of the fields of a results file, and of its answers and sessions; others may have any content that JSON allows.
RESULT_TYPES: dict[str, tuple[type, ...]] = {
    "bundle_id": (str,), "reader": (str,), "key_sha256": (str,), "study_sha256": (str,), "checksum": (str,),
    "sessions": (list,), "answers": (list,), "complete": (bool,), "consent": (dict, type(None)),
    "display_check": (dict, type(None)),
}  # fmt: skip
ANSWER_TYPES: dict[str, tuple[type, ...]] = {
    "position": (int,), "trial": (str,), "task": (str,), "practice": (bool,), "free_text": (str, type(None)),
    "seconds": (int, float, str, type(None)), "answered_at": (str, int, float, type(None)),
}  # fmt: skip
SESSION_TYPES: dict[str, tuple[type, ...]] = {"started": (str, type(None)), "ended": (str, type(None))}
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
MOST_BYTES, DEEPEST, LONGEST_TEXT = 64 << 20, 8, 100_000  # of a results file: size, nesting, letters of one text
LARGEST = 2**53  # a whole number that JavaScript holds exactly
MARKS = {"present": 1.0, "absent": 0.0}  # a finding of a checklist
# Other spellings of a mark, in tables that other programs write.
_MARKS = MARKS | {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0, "positive": 1.0, "negative": 0.0}
_FLAGS = {"1": True, "true": True, "yes": True, "": False, "0": False, "false": False, "no": False}


def parse_result(data: bytes) -> dict[str, Any]:
    """The JSON object of a results file, checked field by field against the schema.

    Args:
        data: Bytes of the file; a byte-order mark is skipped.

    Raises:
        ValueError: If it is no JSON object, or a field is invalid; names the field.
    """
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("it is no object")
    # Every value: finite, of a size that the viewer can write, and encodable.
    if problem := _invalid_value(values):
        raise ValueError(problem)
    # Types of what is read.
    _check_types("", values, RESULT_TYPES)
    for name, types in (("sessions", SESSION_TYPES), ("answers", ANSWER_TYPES)):
        for place, entry in enumerate(values.get(name, [])):
            if not isinstance(entry, dict):
                raise ValueError(f"{name}[{place}] is {short(entry)}, not an object")
            _check_types(f"{name}[{place}].", entry, types)
    return values


def _check_types(prefix: str, values: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> None:
    for name, allowed in types.items():
        value = values.get(name)
        # A bool is an int to Python, but not to JSON.
        if name in values and type(value) not in allowed:
            expected = " or ".join(_WORDS[kind] for kind in allowed if kind in _WORDS)
            raise ValueError(f"{prefix}{name} is {short(value)}, not {expected}")


def _invalid_value(values: Any) -> str:
    """The first value that no viewer writes, by its field; "" if there is none. Not recursive: files may be nested at will."""
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    while waiting:
        field, value, depth = waiting.pop()
        if depth > DEEPEST:
            return f"{field} is nested more than {DEEPEST} deep"
        if isinstance(value, dict):
            if any(not _is_text(key) for key in value):
                return f"{field or 'the file'} has a name that is no valid text"
            inner = [(f"{field}.{key}" if field else key, entry, depth + 1) for key, entry in value.items()]
            waiting += reversed(inner)
        elif isinstance(value, list):
            waiting += reversed([(f"{field}[{place}]", entry, depth + 1) for place, entry in enumerate(value)])
        elif isinstance(value, str) and not _is_text(value):
            return f"{field} is no valid text (broken letters, or more than {LONGEST_TEXT:,})"
        elif isinstance(value, int | float) and not abs(value) <= LARGEST:  # NaN as well
            return f"{field} is {short(value)}, not a number up to 2^53"
    return ""


def _is_text(text: str) -> bool:
    """Whether a text has no lone surrogates, which have no UTF-8, and is not too long."""
    return len(text) <= LONGEST_TEXT and not any("\ud800" <= letter <= "\udfff" for letter in text)


def short(value: Any) -> str:
    """A value for messages, at most 60 letters."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a huge number"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


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
        return text_of_cell(str(cell or ""))
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
            writer.writerow(_cell(row.get(name)) for name in COLUMNS)


def _cell(value: Any) -> Any:
    """A cell of the table; no text runs when the table is opened in a spreadsheet."""
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    return spreadsheet_text(value) if isinstance(value, str) else value


def mark_value(mark: Any) -> float:
    """1 for a finding marked as present, 0 as absent, NaN for anything else."""
    return _MARKS.get(str(mark).lower(), float("nan"))
