"""The table of answers, read back and arranged as arrays of readers × items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.data.tables import read_rows
from medcodi.errors import DataError, did_you_mean
from medcodi.storage.checked_json import parse_json
from medcodi.turing.answers.schema import FACTS, TABLE, AnswerRow, NumberColumn, mark_value, read_row
from medcodi.turing.design.tasks import TaskKind, task_kind
from medcodi.turing.statistics.consistency import Repeats
from medcodi.turing.statistics.ratings import Ratings
from medcodi.turing.statistics.resampling import Cases


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All answers of a study."""

    rows: Sequence[AnswerRow]
    facts: Mapping[str, Any] = field(default_factory=dict)  # `import.json`; empty without it
    source: str = "the table"  # for messages

    @cached_property
    def readers(self) -> list[str]:
        """Readers, sorted."""
        return sorted({row["reader"] for row in self.rows})

    @cached_property
    def tasks(self) -> dict[str, TaskKind]:
        """Task -> kind, in the order of the study's config if it is known, else of the trials."""
        kinds = {row["task"]: task_kind(row["kind"]) for row in sorted(self.rows, key=lambda row: row["position"])}
        configured = [task for task in self.facts.get("tasks", {}) if task in kinds]
        return {task: kinds[task] for task in [*configured, *(task for task in kinds if task not in configured)]}

    def of(self, task: str) -> TaskAnswers:
        """The answers of one task that count, without practice and repeats.

        Raises:
            DataError: If there is no answer to that task.
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
        """First and second answers to repeated items (ratings, or correctness of choices); None without repeats."""
        rows = [row for row in self.rows if row["task"] == task and not row["practice"]]
        # Pairs of answers of one reader to one item.
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
            first=np.asarray([[np.nan if answer is None else _answer(answer) for answer, _ in row] for row in pairs]),
            second=np.asarray([[second for _, second in row] for row in pairs]),
            case=[_unit(shown[item]) for item in items],
            arm=[shown[item]["arm"] for item in items],
        )


def _answer(row: AnswerRow) -> float:
    """The rating, or whether the choice is right: for one item, right twice is the same choice twice."""
    return row["rating"] if np.isfinite(row["rating"]) else row["correct"]


def _unit(row: AnswerRow) -> str:
    """Unit of resampling: the patient, or the case if no patient is named."""
    return row["patient"] or row["case"]


@dataclass(frozen=True, kw_only=True)
class TaskAnswers:
    """Answers of one task as arrays of readers × items."""

    task: str
    kind: TaskKind
    rows: Sequence[AnswerRow]
    highest: int | None = None  # highest rating of the scale; None: unknown

    @cached_property
    def readers(self) -> list[str]:
        """Readers who answered."""
        return sorted({row["reader"] for row in self.rows})

    @cached_property
    def _items(self) -> dict[str, AnswerRow]:
        """Item -> one of its rows, ordered by arm and item."""
        return {row["item"]: row for row in sorted(self.rows, key=lambda row: (row["arm"], row["item"]))}

    @property
    def items(self) -> list[str]:
        """Items with at least one answer."""
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
        """Unit of resampling of each item: its patient, or its case where no patient is named. str ``[I]``."""
        return np.asarray([_unit(row) for row in self._items.values()], dtype=str)

    def cases(self, items: np.ndarray | None = None) -> Cases:
        """Units of resampling of all items, or of the chosen ones (bool ``[I]``).

        Raises:
            DataError: With fewer than two cases.
        """
        chosen = np.ones(len(self.items), dtype=bool) if items is None else items
        return Cases.of(list(self.unit[chosen]), list(self.arm[chosen]))

    def matrix(self, column: NumberColumn) -> np.ndarray:
        """A column of numbers as float ``[R, I]``, NaN where not answered."""
        readers, items = self.readers, {item: i for i, item in enumerate(self.items)}
        values = np.full((len(readers), len(items)), np.nan)
        for row in self.rows:
            values[readers.index(row["reader"]), items[row["item"]]] = row[column]
        return values

    def ratings(self, values: np.ndarray, arm: str) -> Ratings:
        """Ratings, float ``[R, I]``, of the real items and of those of one other arm."""
        chosen = (self.arm == "real") | (self.arm == arm)
        return Ratings(
            readers=self.readers,
            values=values[:, chosen],
            other=self.arm[chosen] == arm,
            case=self.case[chosen],
            cases=self.cases(chosen),
        )

    @cached_property
    def says_generated(self) -> np.ndarray:
        """1 called generated, 0 called real, NaN not answered: float ``[R, I]``, for real-or-generated tasks."""
        right, generated = self.matrix("correct"), (self.arm != "real").astype(float)
        return np.where(np.isfinite(right), np.where(right == 1, generated, 1 - generated), np.nan)

    def findings(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Whether a finding is marked, float ``[R, I]``, and whether it is true, float ``[I]``; NaN where unknown."""
        readers, items = self.readers, {item: i for i, item in enumerate(self.items)}
        marked, true = np.full((len(readers), len(items)), np.nan), np.full(len(items), np.nan)
        for row in self.rows:
            i = items[row["item"]]
            marked[readers.index(row["reader"]), i] = mark_value(row["findings_reader"].get(name))
            if name in row["findings_truth"]:
                true[i] = mark_value(row["findings_truth"][name])
        return marked, true

    @cached_property
    def finding_names(self) -> list[str]:
        """Findings of the checklist."""
        return sorted({name for row in self.rows for name in row["findings_reader"]})


def answers_from_rows(
    rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any] | None = None, *, source: str = "the table"
) -> Answers:
    """Answers from rows, as read from CSV or as values.

    Raises:
        DataError: If there are none, a column is missing, a value is invalid or an item is answered twice; names the row.
    """
    checked = [read_row(row, number, source) for number, row in enumerate(rows, start=2)]
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


def read_answers(place: str | Path) -> Answers:
    """Read ``answers.csv`` (a file, or the folder that import wrote) and the ``import.json`` beside it.

    Raises:
        DataError: If it is missing, empty or unreadable.
    """
    path = Path(place)
    path = path / TABLE if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"no table of answers at {path}", expected=f"the {TABLE} of an import", fix="medcodi turing import first"
        )
    facts_path = path.with_name(FACTS)
    try:
        rows = [row.cells for row in read_rows(path)]
        facts = parse_json(facts_path.read_bytes(), FACTS) if facts_path.is_file() else {}
    except (OSError, DataError) as error:
        raise DataError(f"{path} or its {FACTS} cannot be read: {error}", fix="import the results again") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("tasks", {}), dict):
        raise DataError(
            f"{facts_path} holds no facts of an import", expected="an object", fix="import the results again"
        )
    return answers_from_rows(rows, facts, source=str(path))
