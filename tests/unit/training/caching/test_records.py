"""Shards and their sealed records."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.training.caching.records import CRC, damaged, plan_shards, sealed


@pytest.mark.parametrize(("num", "sizes"), [(1, [1]), (32, [32]), (33, [32, 1]), (70, [32, 32, 6])])
def test_shards_hold_every_study_once(num: int, sizes: list[int]) -> None:
    shards = plan_shards(num)
    assert [len(studies) for studies in shards.values()] == sizes
    assert [study for studies in shards.values() for study in studies] == list(range(num))
    assert next(iter(shards)) == "part-00000"


def test_a_large_dataset_has_at_most_256_shards() -> None:
    shards = plan_shards(100_000)
    assert len(shards) == 256 and {len(studies) for studies in list(shards.values())[:-1]} == {391}


def test_a_changed_row_is_found_by_its_crc() -> None:
    records = np.zeros(3, dtype=[("x", "<f2", (4,)), ("present", "?"), (CRC, "<u4")])
    records["x"] = np.arange(12).reshape(3, 4)
    assert damaged(sealed(records)) == []
    records["x"][1, 2] = 0.5
    assert damaged(records) == [1]
