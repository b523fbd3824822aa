"""Rows are parsed by the types of the schema, and refused by line."""

from __future__ import annotations

import pytest

from medcodi.errors import DataError
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
