"""Files and folders are whole under their names or not there, whatever happens."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medcodi.errors import CheckpointError, DataError, MedCoDiError
from medcodi.storage import atomic
from tests.unit.storage.killed import at_every_change


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a/b.txt", "é\r\n")
    assert (tmp_path / "a/b.txt").read_bytes() == "é\r\n".encode()
    atomic.write_json(tmp_path / "c.json", {"a": [1]}, indent=None)
    assert (tmp_path / "c.json").read_text() == '{"a": [1]}\n'
    with atomic.writing(tmp_path / "d") as file:
        file.write(b"12")
        assert not (tmp_path / "d").exists()
    assert atomic.sha256_file(tmp_path / "d") == hashlib.sha256(b"12").hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c.json", "d"]


def test_a_body_that_fails_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a", "former")
    with pytest.raises(KeyError), atomic.writing(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["former"]


def test_a_body_that_writes_no_file_publishes_none(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_refused_with_the_path_the_room_and_a_fix(tmp_path: Path) -> None:
    with (
        files_of_at_most(100),
        pytest.raises(DataError, match=r"/a cannot be written: File too large \(.* GiB are free\).*make room, then go"),
    ):
        atomic.write_bytes(tmp_path / "a", bytes(1000), error=DataError, then="go on")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(MedCoDiError, match="/proc/x/y cannot be written.*choose another folder, then run it again"):
        atomic.write_text(Path("/proc/x/y"), "")


def test_a_file_that_is_killed_at_any_moment_is_the_former_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "a"
    for moment in at_every_change(
        lambda: atomic.write_text(file, "former"), lambda: atomic.write_text(file, "the new one")
    ):
        assert file.read_text() in ("former", "the new one"), moment
        atomic.sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [file]


def test_what_a_kill_left_of_a_file_is_swept_by_the_next_write_of_that_file(tmp_path: Path) -> None:
    kills = 0
    for _ in at_every_change(lambda: None, lambda: atomic.write_text(tmp_path / "a", "new")):
        left = [path for path in tmp_path.iterdir() if path.name != "a"]
        kills += bool(left)
        for path in left:
            os.utime(path, (0, 0))  # a minute later
        atomic.write_text(tmp_path / "another", "")
        assert all(path.exists() for path in left)
        atomic.write_text(tmp_path / "a", "again")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "another"]
    assert kills >= 2


def test_a_folder_that_is_killed_at_any_moment_is_the_former_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "a"

    def begin() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / "x").write_text("former")

    def replace() -> None:
        with atomic.filling(target, replace=True) as staging:
            (staging / "y").write_text("new")
            (staging / "z").mkdir()

    kills = 0
    for _ in at_every_change(begin, replace):
        atomic.recover(target)
        atomic.sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [target]
        assert sorted(path.name for path in target.iterdir()) in (["x"], ["y", "z"])
        kills += 1
    assert kills >= 5


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("of a person")
    with atomic.filling(tmp_path / "empty") as staging:
        (staging / "y").touch()
    with (
        pytest.raises(CheckpointError, match="full cannot be written: Directory not empty"),
        atomic.filling(tmp_path / "full", error=CheckpointError) as staging,
    ):
        (staging / "y").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "empty", "empty/y", "full", "full/notes.txt",
    ]  # fmt: skip


def test_sweeping_takes_partial_files_and_nothing_that_looks_like_them(tmp_path: Path) -> None:
    atomic.partial_path(tmp_path / "a.txt").touch()
    atomic.partial_path(tmp_path / "folder").mkdir()
    others = [".data.partial", ".a.1.partial", "a.12345678.partial", ".hidden"]
    for name in others:
        (tmp_path / name).touch()
    atomic.sweep(tmp_path)
    atomic.sweep(tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
