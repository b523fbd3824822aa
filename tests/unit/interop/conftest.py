"""The keys of the released checkpoint, as measured."""

from __future__ import annotations

import csv
import gzip

import pytest

from tests.golden.xgem.weights import HERE


@pytest.fixture(scope="session")
def full() -> dict[str, dict[str, str]]:
    """Key -> its row: shape, kind, whether generation runs it."""
    with gzip.open(HERE / "keys_full.csv.gz", "rt", encoding="utf-8") as file:
        return {row["key"]: row for row in csv.DictReader(file)}
