"""The loop on a toy stage: it stops at a signal or a time limit, saves, resumes bit for bit, and gives up on NaN."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medcodi.data.batches import StepBatches
from medcodi.distributed import Ranks
from medcodi.errors import TrainingError
from medcodi.training import checkpoint
from medcodi.training.ema import Ema
from medcodi.training.engine import PlainEngine
from medcodi.training.faults import Watchdog
from medcodi.training.loop import STOP_SIGNALS, Interrupts, Loop
from medcodi.training.run import Run
from medcodi.training.run_folder import RunFolder, load_tensors

from .toy import ToyStage, step_samples, toy_batch, toy_config

QUIET = {"log_every": 3, "tensorboard": False, "mfu": False, "summary": False}


class ToyBatches:
    """Batches of a toy run; a signal is raised while one step's batch is read, and pixels are NaN from another step on."""

    num_workers = 0

    def __init__(self, signal_at: int, nan_from: int) -> None:
        self.signal_at, self.nan_from = signal_at, nan_from

    def iterate(self, start_step: int, stop_step: int) -> Iterator[StepBatches]:
        for step in range(start_step, stop_step):
            if step == self.signal_at:
                signal.raise_signal(signal.SIGTERM)
            batch = toy_batch(step_samples(step))
            if step >= self.nan_from:
                batch.contents["frontal"][0] = math.nan
            yield StepBatches(step=step, micro=(batch,))


class ToyRun(Run):
    """A run whose parts are toys; what it saves and restores is real."""

    def __init__(self, root: Path, *, resume: bool = False, signal_at: int = -1, nan_from: int = 99, **changes: Any):
        self.config = toy_config(out=str(root), tracking=QUIET, **changes)
        self.folder, self.ranks = RunFolder(root), Ranks()
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        self.start_step = self.num_updates = 0
        self.resumed_state, self.identity, self.validation, self.studies = None, {"toy": True}, None, ()
        self._started_by = "python"
        saved = checkpoint.load_latest(self.folder.checkpoints, print) if resume else None
        self.stage = ToyStage(dropout=0.1)
        if saved is not None:
            self.start_step = saved.step
            load_tensors(self.stage, {**saved.tensors["weights"], **saved.tensors["buffers"]})
        batches: Any = ToyBatches(signal_at, nan_from)
        self.batches = batches
        self.engine = PlainEngine(self.stage, self.config, self.ranks)
        self.ema = Ema(self.engine.shards(), self.config.ema)
        if saved is not None:
            self._restore(saved)


def stopped(run: ToyRun, max_minutes: float | None = None) -> checkpoint.Checkpoint:
    """Train until the signal; the checkpoint that was saved then."""
    with Watchdog(run.ranks, run.config.faults) as watchdog, Interrupts(max_minutes) as interrupts:
        Loop(run, watchdog).train(interrupts)
    saved = checkpoint.load_latest(run.folder.checkpoints, pytest.fail)
    assert saved is not None
    return saved


def lines(root: Path) -> list[dict[str, Any]]:
    values = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in values]


def test_a_signal_ends_the_run_after_the_step_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = stopped(ToyRun(tmp_path, signal_at=4))
    assert saved.step == 5 and saved.state["num_updates"] == 5
    assert saved.state["means"][0]["loss"][1] == 2.0  # steps 4 and 5, not logged yet
    printed = capsys.readouterr().out
    assert "stage toy in" in printed and "SIGTERM received: saved at step 5; resume with --resume latest" in printed
    assert not (tmp_path / "model").exists()  # a scheduler does not wait for it


def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(tmp_path: Path) -> None:
    whole = stopped(ToyRun(tmp_path / "whole", signal_at=6))
    stopped(ToyRun(tmp_path / "parts", signal_at=3))
    parts = stopped(ToyRun(tmp_path / "parts", resume=True, signal_at=6))
    assert parts.state == whole.state and lines(tmp_path / "parts") == lines(tmp_path / "whole")
    for kind in ("weights", "optimizer", "ema", "buffers"):
        assert all(parts.tensors[kind][name].equal(value) for name, value in whole.tensors[kind].items()), kind


def test_checkpoints_come_when_they_are_due(tmp_path: Path) -> None:
    stopped(ToyRun(tmp_path, signal_at=4, checkpoint={"every": 2, "keep": 5}))
    assert [path.name for path in checkpoint.finished(tmp_path / "checkpoints")] == [
        f"step-{step:08d}" for step in (2, 4, 5)
    ]


def test_steps_that_are_not_finite_are_skipped_and_named_until_it_gives_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ToyRun(tmp_path, nan_from=2, faults={"max_skipped": 2})
    with pytest.raises(
        TrainingError, match=r"2 steps in a row were not finite, the last with studies study12, .*step 4"
    ):
        stopped(run)
    assert "step 3 skipped: its loss was not finite; studies: study8, study9" in capsys.readouterr().out
    saved = checkpoint.load_latest(tmp_path / "checkpoints", pytest.fail)
    assert saved is not None and saved.step == 4 and saved.state["num_updates"] == 2
    assert all(value.isfinite().all() for value in saved.tensors["weights"].values())


# ---- interrupts --------------------------------------------------------------------------------------------------
def test_a_signal_is_a_reason_and_the_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with Interrupts(None) as interrupts:
        assert interrupts.reason(Ranks()) is None
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)  # forwarded by a launcher: the same request
        assert interrupts.reason(Ranks()) == "SIGUSR1 received"
    # The launcher forwards it once more when all is saved: the process ends as it would have. The others are put back.
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_ctrl_c_ends_a_run_that_has_no_step_yet_and_saves_another() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts(None):
        signal.raise_signal(signal.SIGINT)
    with Interrupts(None) as interrupts:
        interrupts.begun = True
        signal.raise_signal(signal.SIGINT)
        assert interrupts.reason(Ranks()) == "SIGINT received" and interrupts.by_keyboard


def press_twice() -> None:
    with Interrupts(None, forwarded=False) as interrupts:
        interrupts.begun = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    process = multiprocessing.get_context("fork").Process(target=press_twice)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGINT


def test_the_time_limit_is_a_reason() -> None:
    with Interrupts(1e-9) as over, Interrupts(60.0) as left:
        assert over.reason(Ranks()) == Interrupts.TIME_IS_UP and left.reason(Ranks()) is None
