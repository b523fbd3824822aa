"""The studies that are scored: those that all systems with a direction gave."""

from __future__ import annotations

import pytest

from medcodi.errors import DataError
from medcodi.evaluation.pipeline import scored_rows
from medcodi.evaluation.studies import shards_of
from medcodi.evaluation.systems.systems import Produced
from medcodi.study import Direction

FRONTAL, REPORT = Direction.parse("report->frontal"), Direction.parse("frontal->report")


def given(rows: range | list[int]) -> Produced:
    return Produced(shards=shards_of(rows, 4))


def test_each_direction_is_scored_on_what_all_its_systems_gave() -> None:
    produced = {"one": {FRONTAL: given(range(10)), REPORT: given(range(5))}, "two": {FRONTAL: given(range(3, 20))}}
    assert scored_rows(produced) == {FRONTAL: list(range(3, 10)), REPORT: list(range(5))}


def test_too_few_common_studies_are_refused() -> None:
    with pytest.raises(DataError, match="3 studies of report->frontal are common to one, two"):
        scored_rows({"one": {FRONTAL: given(range(10))}, "two": {FRONTAL: given([1, 4, 9, 11])}})
