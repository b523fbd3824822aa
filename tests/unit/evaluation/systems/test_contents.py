"""Shards of contents: read back as written; damaged, missing or of another key, they are not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.evaluation.studies import StudyShard, eight_bit
from medcodi.evaluation.systems.contents import ContentFolder
from medcodi.study import Direction

DIRECTION = Direction.parse("frontal->lateral+report")


def contents(num: int) -> dict:
    images = [eight_bit(np.random.default_rng(row).random((8, 8))) for row in range(num)]
    return {"lateral": images, "report": [f"Größe {row}" for row in range(num)]}


def test_a_shard_is_read_back_exactly(tmp_path: Path) -> None:
    folder, shard = ContentFolder(tmp_path), StudyShard(3, (6, 7))
    folder.write(DIRECTION, shard, "key", contents(2))
    assert folder.path(DIRECTION, shard) == tmp_path / "frontal_to_lateral+report/00003.npz"
    read = folder.read(DIRECTION, shard, "key")
    assert read is not None and read["report"] == contents(2)["report"]
    np.testing.assert_array_equal(np.stack(read["lateral"]), np.stack(contents(2)["lateral"]))
    assert folder.read_rows(DIRECTION, [shard], [7])[7]["report"] == "Größe 1"


def test_another_key_a_damaged_file_and_another_number_of_studies_are_not_used(tmp_path: Path) -> None:
    folder, shard = ContentFolder(tmp_path), StudyShard(0, (0, 1))
    folder.write(DIRECTION, shard, "key", contents(2))
    assert folder.read(DIRECTION, shard, "other") is None and folder.read(DIRECTION, StudyShard(0, (0,))) is None
    path = folder.path(DIRECTION, shard)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    assert folder.read(DIRECTION, shard) is None
    with pytest.raises(DataError, match="missing or damaged.*it resumes"):
        list(folder.read_shards(DIRECTION, [shard]))
