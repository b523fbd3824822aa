"""Checkpoints written beside the run: nothing is lost, errors come out, and a kill at any moment leaves the one before."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medcodi.errors import CheckpointError
from medcodi.training import checkpoint
from medcodi.training.checkpoint import Checkpoint, CheckpointWriter
from medcodi.training.config import CheckpointConfig

SIZE = 200_000  # numbers in a tensor: a save takes milliseconds, so that many kills fall into one


def at(step: int) -> Checkpoint:
    """What a run that is a function of its step would save."""
    weights = {f"w{i}": torch.arange(SIZE, dtype=torch.float32) * (step + i) for i in range(3)}
    return Checkpoint({"weights": weights, "ema": weights}, {"step": step, "means": {"loss": [step * 0.1, 1.0]}})


def test_what_was_handed_over_is_on_the_disk_when_it_is_done(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, CheckpointConfig(every=1, keep=2, keep_every=3))
    for step in range(1, 8):
        writer.write(at(step))
    writer.finish()
    assert [path.name[-1] for path in checkpoint.finished(tmp_path)] == ["3", "6", "7"]
    back = checkpoint.load(tmp_path / "step-00000006")
    assert all(back.tensors["ema"][name].equal(value) for name, value in at(6).tensors["ema"].items())


def test_the_run_may_go_on_counting_in_what_it_handed_over(tmp_path: Path) -> None:
    snapshot = at(1)
    writer = CheckpointWriter(tmp_path, CheckpointConfig())
    writer.write(snapshot)
    snapshot.state["means"]["loss"][0] = 99.0
    writer.finish()
    assert checkpoint.load(tmp_path / "step-00000001").state == at(1).state


@pytest.mark.parametrize("how", ["check", "write", "finish"])
def test_an_error_of_the_thread_comes_out_at_the_next_call(tmp_path: Path, how: str) -> None:
    writer = CheckpointWriter(tmp_path / "checkpoints", CheckpointConfig())
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    writer.write(at(1))
    deadline = time.monotonic() + 30
    with pytest.raises(CheckpointError, match="step-00000001 cannot be written.*--resume latest"):
        while time.monotonic() < deadline:
            {"check": writer.check, "write": lambda: writer.write(at(2)), "finish": writer.finish}[how]()
    writer.finish()  # told once


def test_a_full_disk_leaves_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, at(1), keep=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, hard))  # bytes: less than a file needs
    try:
        with pytest.raises(
            CheckpointError, match=f"step-00000002 cannot be written: {os.strerror(errno.EFBIG)}.*GiB are free"
        ):
            checkpoint.save(tmp_path, at(2), keep=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.load(tmp_path / "step-00000001").step == 1


def test_a_checkpoint_that_had_moved_aside_comes_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, at(1), keep=3)
    path.rename(tmp_path / ".step-00000001.aside")  # as if killed while the same step was written once more
    checkpoint.put_back(tmp_path)
    assert checkpoint.load(path).step == 1
    checkpoint.save(tmp_path, at(1), keep=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def run(folder: str, steps: int) -> None:
    """A run that saves after every step, and goes on from the last whole checkpoint."""
    saved = checkpoint.load_latest(Path(folder), lambda text: os._exit(3))  # a damaged one: never
    writer = CheckpointWriter(Path(folder), CheckpointConfig(every=1, keep=2))
    for step in range(0 if saved is None else saved.step, steps):
        time.sleep(0.001)
        writer.write(at(step + 1))
    writer.finish()


def stop_inside_a_save(process: Any, folder: Path, delay: Callable[[], float]) -> None:
    """Stop a run while one of its checkpoints is half written."""
    while process.is_alive():
        while not any(folder.glob(".step-*.partial")) and process.is_alive():
            time.sleep(0.0005)
        time.sleep(delay())
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        if any(folder.glob(".step-*.partial")):
            return
        os.kill(process.pid, signal.SIGCONT)  # it was done by then


def test_killed_at_forty_moments_the_latest_is_always_whole(tmp_path: Path) -> None:
    chance, forks = random.Random(3), multiprocessing.get_context("fork")
    folder, inside, last = tmp_path / "checkpoints", 0, 0
    for number in range(40):
        process = forks.Process(target=run, args=(str(folder), 10**6))
        process.start()
        if number % 2:  # a little later than the next whole one
            while (
                not any(path.name > f"step-{last:08d}" for path in checkpoint.finished(folder)) and process.is_alive()
            ):
                time.sleep(0.0005)
            time.sleep(chance.uniform(0.0, 0.1))
        else:
            stop_inside_a_save(process, folder, lambda: chance.uniform(0.0, 0.01))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        inside += any(folder.glob(".step-*.partial"))
        saved = checkpoint.load_latest(folder, pytest.fail)
        step = 0 if saved is None else saved.step
        assert step >= last
        if saved is not None:
            assert all(
                saved.tensors["weights"][name].equal(value) for name, value in at(step).tensors["weights"].items()
            )
        last = step
    assert inside >= 20 and last >= 20
    run(str(folder), last + 2)
    assert checkpoint.finished(folder)[-1].name == f"step-{last + 2:08d}" and not any(folder.glob(".*"))
