"""One holder at a time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medcodi.storage.locks import LockedError, locked


def test_a_second_holder_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "a/.lock"),
        pytest.raises(LockedError, match=f"process {os.getpid()} on "),
        locked(tmp_path / "a/.lock"),
    ):
        pass
    assert not list((tmp_path / "a").iterdir())
    with locked(tmp_path / "a/.lock"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on a machine that is gone\n")
    with locked(tmp_path / ".lock"):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")


def test_holders_that_wait_come_one_after_the_other(tmp_path: Path) -> None:
    children = []
    for number in range(4):
        if (child := os.fork()) == 0:
            with locked(tmp_path / ".lock", wait=True):
                before = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
                time.sleep(0.02)
                (tmp_path / "log").write_text(f"{before}{number}\n")
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert sorted((tmp_path / "log").read_text().split()) == list("0123")  # none overwrote another's line
