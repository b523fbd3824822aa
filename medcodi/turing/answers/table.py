"""The tidy table of answers, read back and laid out as readers × items."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.errors import DataError, did_you_mean
from medcodi.turing.design.tasks import TASK_KINDS, TaskKind, task_kind
from medcodi.turing.statistics.consistency import Repeats
from medcodi.turing.statistics.resampling import Cases

TABLE, FACTS = "answers.csv", "import.json"
NEEDED = ("reader", "task", "kind", "item", "case", "arm")
_NUMBERS = ("position", "rating", "confidence", "correct", "seconds")
_TRUE, _FALSE = {"1", "true", "yes"}, {"", "0", "false", "no"}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All answers of a study."""

    # A dictionary each: text columns as text, numbers as float (NaN where empty), findings as mappings
    rows: Sequence[Mapping[str, Any]]
    # What `import.json` tells: files, margins, what is missing and excluded; empty without it
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: str = "the table"  # where they were read

    @cached_property
    def readers(self) -> list[str]:
        """Readers, sorted."""
        return sorted({row["reader"] for row in self.rows})

    @cached_property
    def tasks(self) -> dict[str, TaskKind]:
        """Task -> kind, in the order of the study file where that is known, else of the trials."""
        found = {row["task"]: task_kind(row["kind"]) for row in sorted(self.rows, key=lambda row: row["position"])}
        told = [task for task in self.facts.get("tasks", {}) if task in found]
        return {task: found[task] for task in [*told, *(task for task in found if task not in told)]}

    def of(self, task: str) -> TaskAnswers:
        """The answers of one task that count: neither practice nor repeats.

        Raises:
            DataError: If no answer is of that task.
        """
        if task not in self.tasks:
            raise DataError(
                f"no answers of task {task!r} in {self.source}",
                expected="one of the study's tasks",
                fix=did_you_mean(task, self.tasks),
            )
        rows = [row for row in self.rows if row["task"] == task and not row["practice"] and not row["repeat_of"]]
        scale = self.facts.get("tasks", {}).get(task, {}).get("scale")
        return TaskAnswers(task=task, kind=self.tasks[task], rows=rows, highest=int(scale[1]) if scale else None)

    def repeats(self, task: str) -> Repeats | None:
        """First and second answers of repeated items; None where there are none. Ratings, or which image was called real."""
        rows = [row for row in self.rows if row["task"] == task and not row["practice"]]
        again = {(row["reader"], row["repeat_of"]): _answer(row) for row in rows if row["repeat_of"]}
        first = {(row["reader"], row["item"]): row for row in rows if not row["repeat_of"]}
        items = sorted({item for reader, item in again if (reader, item) in first})
        readers = sorted({reader for reader, item in again if (reader, item) in first})
        if not items:
            return None
        shown = {row["item"]: row for row in rows if row["item"] in items}
        pairs = [[(first.get((r, i)), again.get((r, i), np.nan)) for i in items] for r in readers]
        return Repeats(
            readers=readers,
            first=np.asarray([[np.nan if one is None else _answer(one) for one, _ in row] for row in pairs]),
            second=np.asarray([[second for _, second in row] for row in pairs]),
            case=[_unit(shown[item]) for item in items],
            arm=[shown[item]["arm"] for item in items],
        )


def _answer(row: Mapping[str, Any]) -> float:
    """The rating, or whether the choice was right: about one item, right twice is the same choice twice."""
    return row["rating"] if np.isfinite(row["rating"]) else row["correct"]


def _unit(row: Mapping[str, Any]) -> str:
    return row["patient"] or row["case"]


@dataclass(frozen=True, kw_only=True)
class TaskAnswers:
    """Answers of one task as arrays of readers × items."""

    task: str  # its id
    kind: TaskKind  # its kind
    rows: Sequence[Mapping[str, Any]]  # the rows of the table
    highest: int | None = None  # best rating of the study's scale; None: not told

    @cached_property
    def readers(self) -> list[str]:
        """Readers who answered."""
        return sorted({row["reader"] for row in self.rows})

    @cached_property
    def _items(self) -> dict[str, Mapping[str, Any]]:
        """Item -> one of its rows."""
        return {row["item"]: row for row in sorted(self.rows, key=lambda row: (row["arm"], row["item"]))}

    @property
    def items(self) -> list[str]:
        """Items that somebody answered."""
        return list(self._items)

    @cached_property
    def arm(self) -> np.ndarray:
        """Arm of each item, str ``[I]``."""
        return np.asarray([row["arm"] for row in self._items.values()], dtype=str)

    @cached_property
    def case(self) -> np.ndarray:
        """Case of each item, str ``[I]``."""
        return np.asarray([row["case"] for row in self._items.values()], dtype=str)

    @cached_property
    def unit(self) -> np.ndarray:
        """Patient of each item, or its case where no patient is named: drawn together. str ``[I]``."""
        return np.asarray([_unit(row) for row in self._items.values()], dtype=str)

    def cases(self, items: np.ndarray | None = None) -> Cases:
        """Which items are drawn together, of all or of those chosen (bool ``[I]``).

        Raises:
            DataError: With fewer than two cases.
        """
        chosen = np.ones(len(self.items), dtype=bool) if items is None else items
        return Cases.of(list(self.unit[chosen]), list(self.arm[chosen]))

    def matrix(self, column: str) -> np.ndarray:
        """A number column as float ``[R, I]``, NaN not answered."""
        readers, items = self.readers, {item: i for i, item in enumerate(self.items)}
        values = np.full((len(readers), len(items)), np.nan)
        for row in self.rows:
            values[readers.index(row["reader"]), items[row["item"]]] = row[column]
        return values

    @cached_property
    def says_generated(self) -> np.ndarray:
        """1 called generated, 0 called real, NaN not answered: float ``[R, I]``; of real-or-generated tasks."""
        right, generated = self.matrix("correct"), (self.arm != "real").astype(float)
        return np.where(np.isfinite(right), np.where(right == 1, generated, 1 - generated), np.nan)

    def findings(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Whether a finding was marked, float ``[R, I]``, and whether it is there, float ``[I]``; NaN unknown."""
        readers, items = self.readers, {item: i for i, item in enumerate(self.items)}
        marked, true = np.full((len(readers), len(items)), np.nan), np.full(len(items), np.nan)
        for row in self.rows:
            i = items[row["item"]]
            marked[readers.index(row["reader"]), i] = _present(row["findings_reader"].get(name))
            if name in row["findings_truth"]:
                true[i] = _present(row["findings_truth"][name])
        return marked, true

    @cached_property
    def finding_names(self) -> list[str]:
        """Findings of the checklist."""
        return sorted({name for row in self.rows for name in row["findings_reader"]})


def _present(value: Any) -> float:
    known = {
        "present": 1.0,
        "absent": 0.0,
        "1": 1.0,
        "0": 0.0,
        "true": 1.0,
        "false": 0.0,
        "positive": 1.0,
        "negative": 0.0,
    }
    return known.get(str(value).lower(), float("nan"))


def answers_from_rows(
    rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any] | None = None, *, source: str = "the table"
) -> Answers:
    """Check rows (as CSV gives them, or with numbers) and fill what they leave out.

    Raises:
        DataError: If there are none, a column is missing, or a value cannot be read; names the row.
    """
    checked = [_checked(row, number, source) for number, row in enumerate(rows, start=2)]
    if not checked:
        raise DataError(
            f"{source} holds no answers",
            expected="a row for each answer",
            fix="medcodi turing import results/*.json …",
        )
    seen: set[tuple[str, str, str]] = set()
    for row in checked:
        key = (row["reader"], row["task"], row["item"])
        if key in seen:
            raise DataError(
                f"{source}: {row['reader']} answers item {row['item']!r} of task {row['task']!r} twice",
                expected="one answer, a repetition under another item with repeat_of",
                fix="import the results again with medcodi turing import",
            )
        seen.add(key)
    return Answers(rows=checked, facts=dict(facts or {}), source=source)


def _checked(row: Mapping[str, Any], number: int, source: str) -> dict[str, Any]:
    missing = [name for name in NEEDED if name not in row]
    if missing:
        raise DataError(
            f"{source} has no column {missing[0]!r}",
            expected="columns " + ", ".join(NEEDED),
            fix="use the answers.csv that medcodi turing import writes",
        )
    where = f"{source}, line {number}"
    result: dict[str, Any] = {
        name: str(row.get(name) or "") for name in (*NEEDED, "patient", "repeat_of", "choice", "free_text")
    }
    empty = next((name for name in NEEDED if not result[name]), None)
    if empty:
        raise DataError(f"{where}: {empty} is empty", expected="a value", fix="correct the row")
    if result["kind"] not in TASK_KINDS:
        raise DataError(
            f"{where}: unknown kind of task {result['kind']!r}", fix=did_you_mean(result["kind"], TASK_KINDS)
        )
    for name in _NUMBERS:
        text = row.get(name)
        try:
            result[name] = float("nan") if text is None or text == "" else float(text)
        except (TypeError, ValueError):
            raise DataError(f"{where}: {name} is {text!r}", expected="a number, or nothing", fix="correct it") from None
    result["position"] = float(number) if np.isnan(result["position"]) else result["position"]
    practice = str(row.get("practice") or "").strip().lower()
    if practice not in _TRUE | _FALSE:
        raise DataError(f"{where}: practice is {practice!r}", expected="1 or 0", fix="correct it")
    result["practice"] = practice in _TRUE
    for name in ("findings_reader", "findings_truth"):
        result[name] = _mapping(row.get(name), f"{where}: {name}")
    return result


def _mapping(text: Any, where: str) -> dict[str, Any]:
    if isinstance(text, Mapping):
        return dict(text)
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise DataError(f"{where} is {text!r}", expected='JSON such as {"Edema": "present"}', fix="correct it")
    return value


def read_answers(place: str | Path) -> Answers:
    """Read ``answers.csv`` (a file, or the folder that import wrote) and the ``import.json`` beside it.

    Raises:
        DataError: If it is missing, empty or cannot be read.
    """
    path = Path(place)
    path = path / TABLE if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"no table of answers at {path}", expected=f"the {TABLE} of an import", fix="medcodi turing import first"
        )
    facts_path = path.with_name(FACTS)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        facts = json.loads(facts_path.read_text(encoding="utf-8")) if facts_path.is_file() else {}
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DataError(f"{path} or its {FACTS} cannot be read: {error}", fix="import the results again") from None
    return answers_from_rows(rows, facts, source=str(path))
