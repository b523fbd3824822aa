"""The studies that are scored: those that all systems with a direction gave."""

from __future__ import annotations

import pytest

from medcodi.errors import DataError
from medcodi.evaluation.pipeline import scored_rows, with_enough_studies
from medcodi.evaluation.studies import LeftOutDirection, shards_of
from medcodi.evaluation.systems.systems import Output
from medcodi.study import Direction

FRONTAL, REPORT = Direction.parse("report->frontal"), Direction.parse("frontal->report")


def output(rows: range | list[int]) -> Output:
    return Output(shards=shards_of(rows, 4))


def test_each_direction_is_scored_on_what_all_its_systems_gave() -> None:
    outputs = {"one": {FRONTAL: output(range(10)), REPORT: output(range(5))}, "two": {FRONTAL: output(range(3, 20))}}
    assert scored_rows(outputs) == ({FRONTAL: list(range(3, 10)), REPORT: list(range(5))}, [])


def test_a_direction_with_too_few_studies_is_left_out_and_the_rest_remains() -> None:
    outputs = {"one": {FRONTAL: output(range(10)), REPORT: output(range(3))}, "two": {FRONTAL: output(range(3, 20))}}
    remaining, left_out = with_enough_studies(outputs)
    assert remaining == {"one": {FRONTAL: output(range(10))}, "two": {FRONTAL: output(range(3, 20))}}
    assert left_out == [LeftOutDirection("one", "frontal->report", "3 studies are common to one", 3)]


def test_too_few_common_studies_of_every_direction_are_refused() -> None:
    with pytest.raises(DataError, match=r"report->frontal: 3 studies are common to one, two.*directions=\[\.\.\.\]"):
        scored_rows({"one": {FRONTAL: output(range(10))}, "two": {FRONTAL: output([1, 4, 9, 11])}})
