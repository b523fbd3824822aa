"""What is not proved ours is neither overwritten nor removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medcodi.errors import ConfigError, DataError
from medcodi.storage import atomic
from medcodi.storage.ownership import refuse_foreign, refuse_full


def is_marked(path: Path) -> bool:
    return (path / "mark").read_text() == "ours"


def refused(path: Path, **more: type[DataError]) -> str:
    with pytest.raises(more.get("error", DataError)) as refusal:
        refuse_foreign(path, is_marked, what="a marked folder", fix="choose another", **more)
    return str(refusal.value)


def test_only_nothing_an_empty_folder_and_what_is_ours_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/mark").write_text("ours")
    for name in ("nothing", "empty", "ours"):
        refuse_foreign(tmp_path / name, is_marked, what="a marked folder", fix="choose another")
    # Whatever the proof stumbles over is no proof.
    (tmp_path / "file").write_text("x")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/mark").write_bytes(b"\xff\xfe")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "theirs", "link"):
        assert f"{name} is there already, and is not a marked folder" in refused(tmp_path / name)
    assert "Fix: choose another, or move it elsewhere" in refused(tmp_path / "file", error=ConfigError)


KILLED = """
import os, sys, time
from pathlib import Path
from medcodi.storage import atomic
with atomic.staging_folder(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("half")
    print(staging.name, flush=True)
    time.sleep(600)
"""


def test_staging_folders_of_killed_processes_are_swept_and_those_in_use_stay(tmp_path: Path) -> None:
    target = tmp_path / "a[b]"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        others = [tmp_path / f".{text}" for text in ("a[b].notes.partial", "other.0123abcd.partial")]
        for folder in (tmp_path / name, *others):
            folder.mkdir(exist_ok=True)
            os.utime(folder, (0, 0))  # old
        # Another process fills it: it stays.
        with atomic.filling(target) as staging:
            (staging / "whole").touch()
        assert (tmp_path / name / "half").exists()
        process.kill()
        process.wait()
    # Its process is dead: the next one for the same target removes it, and nothing else.
    with atomic.filling(target, replace=True):
        assert not (tmp_path / name).exists()
    assert all(folder.is_dir() for folder in others) and target.is_dir()
    # The same for what earlier versions left of a single file.
    for name in (".page.html.01234567.partial", ".page.html.0123456g.partial", ".page.htm.01234567.partial"):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 0))
    atomic.write_text(tmp_path / "page.html", "whole")
    assert [path.name for path in sorted(tmp_path.glob(".page*"))] == [
        ".page.htm.01234567.partial", ".page.html.0123456g.partial",
    ]  # fmt: skip
    # One that has just been made may not be locked yet.
    fresh = tmp_path / ".a[b].01234567.partial"
    fresh.mkdir()
    with atomic.filling(target, replace=True):
        assert fresh.exists()


def test_only_a_new_or_empty_folder_is_not_full(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refuse_full(tmp_path / "new", fix="choose another")
    for full in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match=r"is not empty.*Fix: choose another"):
            refuse_full(full, fix="choose another")
