"""Rows stored by content: keys, several writers, damage, identities, unusable folders."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.evaluation.annotators.annotator import ROWS_PER_SHARD, RowCache, content_key


def filled(root: Path, keys: range, dim: int = 3) -> RowCache:
    cache = RowCache(root, "a" * 64, dim)
    cache.put([content_key(str(key)) for key in keys], np.array([[key] * dim for key in keys], np.float32))
    cache.flush()
    return cache


def test_keys_tell_pixels_shapes_types_and_texts_apart() -> None:
    values = [
        np.zeros((2, 3), np.uint8),
        np.zeros((3, 2), np.uint8),
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3)),
        "",
        "a",
    ]
    assert len({content_key(value) for value in values}) == len(values)
    assert content_key(np.ones((4, 4), np.uint8)[::2]) == content_key(np.ones((2, 4), np.uint8))


def test_many_writers_at_once(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=filled, args=(tmp_path, range(start, start + 30))) for start in range(0, 100, 10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache = RowCache(tmp_path, "a" * 64, 3)
    assert len(cache) == 120
    assert all((cache.get(content_key(str(key))) == key).all() for key in range(120))
    assert not list(tmp_path.rglob("*.partial"))


def test_rows_of_another_run_are_seen_when_the_cache_is_opened(tmp_path: Path) -> None:
    cache = filled(tmp_path, range(2))
    filled(tmp_path, range(5, 8))
    assert cache.get(content_key("6")) is None
    again = RowCache(tmp_path, "a" * 64, 3)
    assert again.get(content_key("6")) is not None and len(again) == 5


def test_a_damaged_shard_is_noticed_and_computed_again(tmp_path: Path) -> None:
    filled(tmp_path, range(4))
    shard = next(tmp_path.rglob("*.npy"))
    content = bytearray(shard.read_bytes())
    content[-2] ^= 0xFF
    shard.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        cache = RowCache(tmp_path, "a" * 64, 3)
    assert cache.get(content_key("1")) is None
    with pytest.warns(UserWarning, match="is damaged"):
        again = filled(tmp_path, range(4))
    row = again.get(content_key("3"))
    assert row is not None and (row == 3).all()
    assert len(RowCache(tmp_path, "a" * 64, 3)) == 4  # the same shard, whole again


def test_rows_wait_in_memory_until_a_shard_is_full(tmp_path: Path) -> None:
    cache = RowCache(tmp_path, "d" * 64, 1)
    cache.put([content_key("x")], np.array([[7.0]]))
    assert not list(tmp_path.rglob("*.npy")) and cache.get(content_key("x")) == np.float32(7)
    keys = [content_key(str(key)) for key in range(ROWS_PER_SHARD)]
    cache.put(keys, np.zeros((ROWS_PER_SHARD, 1)))
    assert len(list(tmp_path.rglob("*.npy"))) == 1 and len(cache) == ROWS_PER_SHARD + 1
    cache.put(keys[:1], np.ones((1, 1)))  # known already: the first row stays
    assert cache.get(keys[0]) == 0


def test_other_identities_and_lengths_do_not_mix(tmp_path: Path) -> None:
    filled(tmp_path, range(2))
    assert len(RowCache(tmp_path, "b" * 64, 3)) == 0
    assert len(RowCache(tmp_path, "a" * 64, 4)) == 0  # rows of another length are ignored
    described = RowCache(tmp_path, "c" * 64, 3, {"name": "demo"}).folder / "identity.json"
    assert json.loads(described.read_text()) == {"identity": "c" * 64, "of": {"name": "demo"}}


def test_an_unusable_folder_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot be used"):
        RowCache(blocked, "a" * 64, 3)
