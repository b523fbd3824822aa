"""The guards trip: shared patients, a generator that saw the test, unequal steps, a test split that is read twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.trust.utility.guards import EQUAL, TestOnce, check_equal, check_patients


def test_patients_in_two_sets_are_refused() -> None:
    check_patients({"train": {"a"}, "test": {"b"}}, {"g": {"a"}})
    with pytest.raises(DataError, match="train and test share 1 of 2 patients, such as 'b'"):
        check_patients({"train": {"a", "b"}, "test": {"b", "c"}}, {})


@pytest.mark.parametrize("judging", ["validation", "test", "external_test"])
def test_a_generator_that_saw_a_judging_patient_is_refused(judging: str) -> None:
    with pytest.raises(DataError, match=f"generator 'g' was trained on 2 patients of {judging}"):
        check_patients({"train": {"a"}, judging: {"b", "c"}}, {"g": {"a", "b", "c"}})


@pytest.mark.parametrize("key", EQUAL)
def test_unequal_trainings_are_refused(key: str) -> None:
    same = dict.fromkeys(EQUAL, 100)
    check_equal({"a/0-0": same, "b/0-0": dict(same)})
    with pytest.raises(DataError, match=f"b/0-0 was trained with {key} 600, and a/0-0 with 100"):
        check_equal({"a/0-0": same, "b/0-0": {**same, key: 600}})


def test_the_test_split_is_read_once(tmp_path: Path) -> None:
    first = TestOnce(tmp_path, {"a": "1", "b": "2"})
    assert first.read(lambda: 7) == 7
    with pytest.raises(DataError, match="read twice"):
        first.read(lambda: 7)
    # A process that was killed while it tested reads again for the same classifiers; for others it may not.
    assert TestOnce(tmp_path, {"b": "2", "a": "1"}).read(lambda: 8) == 8
    with pytest.raises(DataError, match="for other classifiers"):
        TestOnce(tmp_path, {"a": "1", "b": "3"}).read(lambda: 9)
