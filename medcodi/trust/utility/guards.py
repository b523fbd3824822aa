"""Refusals of what would make a comparison worthless: shared patients, unequal training, a test split that is read twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from medcodi.errors import DataError
from medcodi.storage import atomic

EQUAL = ("num_steps", "batch_size", "schedule", "selection", "precision", "network")  # of the training of every arm
OPENED = "test-opened.json"

T = TypeVar("T")


def check_patients(sets: Mapping[str, Collection[str]], generators: Mapping[str, Collection[str]]) -> None:
    """Refuse patients that are in two sets of real studies, or in a generator's training and in a set that judges.

    Args:
        sets: ``train``, ``validation``, ``test``, and perhaps ``oracle`` and ``external_test`` -> patients.
        generators: Name -> patients that it was trained on.

    Raises:
        DataError: Names the sets, how many patients they share, and one of them.
    """
    for first, second in combinations(sets, 2):
        if shared := set(sets[first]) & set(sets[second]):
            raise DataError(
                f"{first} and {second} share {len(shared):,} of {len(set(sets[second])):,} patients, such as {min(shared)!r}",
                expected="every patient in one set",
                fix="other splits or datasets; ids that are equal by chance must be renamed when the data are prepared",
            )
    for name, patients in generators.items():
        for judging in ("validation", "test", "external_test"):
            if shared := set(patients) & set(sets.get(judging, ())):
                raise DataError(
                    f"generator {name!r} was trained on {len(shared):,} patients of {judging}, such as {min(shared)!r}",
                    expected="a generator that saw none of the patients that judge it",
                    fix=f"other {judging} patients, or a generator that was trained without them",
                )


def check_equal(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse trainings that differ in anything but their studies; ``records`` are those of all classifiers, by name.

    Raises:
        DataError: Names the first two that differ, and in what.
    """
    reference_name, reference = next(iter(records.items()))
    for name, record in records.items():
        for key in EQUAL:
            if record.get(key) != reference.get(key):
                raise DataError(
                    f"{name} was trained with {key} {record.get(key)!r}, and {reference_name} with {reference.get(key)!r}",
                    expected="the same steps, batch, schedule and selection in every arm",
                    fix="remove the shards that differ, and run it again",
                )


class TestOnce:
    """The test split, which is read once: after all classifiers are final, and for them alone."""

    __test__ = False  # no test of pytest's

    def __init__(self, folder: Path, classifiers: Mapping[str, str]) -> None:
        """Name the classifiers that will be tested.

        Args:
            folder: Of the job, which remembers for whom the split was read.
            classifiers: Name -> SHA-256 of the weights.
        """
        self._path = folder / OPENED
        self._sha256 = hashlib.sha256(json.dumps(sorted(classifiers.items())).encode()).hexdigest()
        self._is_read = False

    def read(self, read: Callable[[], T]) -> T:
        """Read the split.

        Raises:
            DataError: If it was read before in this process, or by an earlier one for other classifiers.
        """
        if self._is_read:
            raise DataError(
                "the test split is read twice",
                expected="one reading, after everything was chosen",
                fix="report this error",
            )
        if self._path.is_file():
            # A run that was killed while it tested may read again, because nothing can have been chosen since.
            before = json.loads(self._path.read_text(encoding="utf-8"))["classifiers_sha256"]
            if before != self._sha256:
                raise DataError(
                    "the test split has been read already, for other classifiers than those that are there now",
                    expected="one reading, after everything was chosen",
                    fix="begin anew in another folder, with a test split that nobody has looked at",
                )
        atomic.write_json(self._path, {"classifiers_sha256": self._sha256}, error=DataError)
        self._is_read = True
        return read()
