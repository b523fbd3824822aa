"""The table of answers as arrays."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.turing.answers.table import Answers, answers_from_rows, read_answers
from tests.unit.turing.simulated_rows import simulated, write_table


def test_repeats_and_practice_do_not_count_twice(answers: Answers) -> None:
    assert answers.of("realism").matrix("rating").shape == (3, 40)
    practice = [dict(row, practice="1", item="p" + row["item"]) for row in simulated()]
    assert answers_from_rows(simulated() + practice).of("realism").matrix("rating").shape == (3, 40)


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read_answers(write_table(tmp_path / "empty", []))
    with pytest.raises(DataError, match=r"no table of answers.*turing import first"):
        read_answers(tmp_path / "nothing")
    (tmp_path / "answers.csv").write_text("reader,task\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'kind'"):
        read_answers(tmp_path)
