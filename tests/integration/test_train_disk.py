"""Disks that are full or can only be read: said, and no checkpoint is lost."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medcodi.errors import CheckpointError
from medcodi.training import checkpoint
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train
from tests.integration import forked, small_disk


def whole(run: Path) -> int:
    """Step of the newest checkpoint; all of them are whole, and there is one."""
    saved = checkpoint.load_latest(run / "checkpoints", pytest.fail)
    assert saved is not None
    return saved.step


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond this: what a full disk does to a large one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_full_disk_is_said_and_costs_no_checkpoint(
    config: Callable[..., TrainConfig], tmp_path: Path, background: str
) -> None:
    words = ("checkpoint.every=2", f"checkpoint.background={background}")
    train(config(*words, "steps=2"))
    with (
        files_up_to(20_000),
        pytest.raises(CheckpointError, match="step-00000004 cannot be written: File too large.*room"),
    ):
        train(config(*words, "steps=6"), resume="latest")
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    assert whole(tmp_path / "run") == 2
    train(config(*words, "steps=6"), resume="latest")
    assert whole(tmp_path / "run") == 6


def test_a_disk_of_its_own_that_fills_up_or_is_read_only(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    settings = config("steps=100000", "checkpoint.every=1", "checkpoint.keep=1", f"out={tmp_path / 'disk/run'}")
    (tmp_path / "disk").mkdir()
    process = forked.FORKS.Process(
        target=small_disk.story, args=(settings, tmp_path / "told.json", tmp_path / "said.txt")
    )
    process.start()
    process.join(200)
    if process.exitcode == small_disk.NOT_ALLOWED:
        pytest.skip("this machine lets nobody mount a file system of their own")
    assert process.exitcode == 0, (tmp_path / "said.txt").read_text()[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert "has room for 0.0" in told["too small"] and "checkpoints to come: 1 of" in told["too small"]
    assert "cannot be written: No space left on device" in told["filled up"] and "make room" in told["filled up"]
    assert told["checkpoints then"] and not told["half-written"]
    assert told["went on from"] == told["checkpoints then"][-1] and told["finished"]
    assert all("cannot be written" in text and "Read-only" in text for text in told["read-only"])
