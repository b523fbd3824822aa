"""Nobody waits for ever: data that do not come end the run, and an exchange that fails is put down to who made it fail."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from pathlib import Path

import pytest

from medcodi.distributed import Ranks
from medcodi.errors import DataError, TrainingError
from medcodi.training import faults as watching
from medcodi.training.config import FaultConfig
from medcodi.training.faults import Heartbeat, Watchdog


def test_data_that_do_not_come_end_the_run_and_are_named() -> None:
    watch, began = Watchdog(Ranks(), FaultConfig(data_s=0.3)), time.monotonic()
    with pytest.raises(TrainingError, match=r"rank 0: step 3 did not come.*faults.data_s = 0.3 s.*disk"), watch:
        watch.report("waiting for the data of step 4", 0.3, lambda: "rank 0: step 3 did not come")
        time.sleep(60)
    watch.linger()
    assert time.monotonic() - began < 20


def test_neither_an_ignored_interrupt_nor_a_handler_of_ours_is_left_behind() -> None:
    before, interrupt = signal.getsignal(watching.BREAK_IN), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in what a script started in the background
    try:
        watch = Watchdog(Ranks(), FaultConfig(data_s=0.3))
        with pytest.raises(TrainingError, match="it did not come"), watch:
            watch.report("waiting", 0.3, lambda: "it did not come")
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert signal.getsignal(watching.BREAK_IN) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog" and thread.is_alive()]


def test_data_that_come_in_time_do_not() -> None:
    watch = Watchdog(Ranks(), FaultConfig())
    watch.report("waiting", 0.0, lambda: "late")
    assert "late" in str(watch._late())
    watch.report("waiting for the next", 3600.0, lambda: "late")  # each wait has a limit of its own
    assert watch._late() is None
    watch.report("waiting", 0.0, lambda: "late")
    watch.report("taking step 1")
    assert watch._late() is None


def wait_deaf(written: Path) -> None:
    """Wait for data as in a call that hears no signal: a network's file system that hangs."""
    watching.GRACE_S = 0.5  # of 10: how long it may take to come out
    signal.pthread_sigmask(signal.SIG_BLOCK, {watching.BREAK_IN})
    watch = Watchdog(Ranks(), FaultConfig(data_s=0.3))
    watch.before_exit = lambda seconds: written.write_text("the checkpoint is whole") and None
    with watch:
        watch.report("waiting", 0.3, lambda: "rank 0: step 3 did not come")
        time.sleep(300)


def test_a_run_that_does_not_come_out_of_its_wait_is_ended_once_its_checkpoint_is_whole(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=wait_deaf, args=(tmp_path / "written",))
    process.start()
    process.join(60)
    assert process.exitcode == watching.RETRY and (tmp_path / "written").read_text() == "the checkpoint is whole"


@pytest.mark.parametrize("error", [DataError("a bad study"), KeyError("a bug"), RuntimeError("a bug as well")])
def test_errors_of_a_rank_alone_come_out_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, Watchdog(Ranks(), FaultConfig()):
        raise error
    assert raised.value is error


def test_of_many_that_stopped_the_one_that_began_it_is_named() -> None:
    watch = Watchdog(Ranks(rank=0, world_size=4), FaultConfig(rank_s=5.0))
    assert watch._stopped() is None and watch._silent(5.0) is None
    watch._others[1] = Heartbeat(left="TrainingError: rank 3 stopped", blames=3)
    assert "rank 1 reports: TrainingError: rank 3 stopped" in str(watch._stopped())
    refused = DataError("study 'x' cannot be read").exit_code
    watch._others[3] = Heartbeat(activity="taking step 7", left="DataError: study 'x' cannot be read", code=refused)
    verdict = watch._stopped()
    assert "rank 3 stopped while taking step 7: DataError: study 'x'" in str(verdict)
    assert verdict is not None and verdict.exit_code == refused == 2  # to begin again would not fix it
    watch._others[3].advice = ("its pixels", "copy the dataset again")  # it was refused: its own fix, and no guess
    assert str(watch._stopped()).endswith("Expected its pixels. Fix: copy the dataset again.")
    watch._others[3].advice = None
    assert "out of memory?" not in str(watch._stopped())


def test_an_exchange_that_no_one_ends_says_where_each_rank_is() -> None:
    watch = Watchdog(Ranks(rank=0, world_size=2), FaultConfig(rank_s=1.0, exchange_minutes=5))
    watch.report("taking step 8")
    watch._others[1] = Heartbeat(activity="saving at step 7", seen=time.monotonic() + 60.0)  # it lives
    told = watch._explain(RuntimeError("Timed out waiting 300000ms for recv operation to complete"))
    assert "minutes = 5: this rank 0 is taking step 8; rank 1 is saving at step 7" in str(told)
    assert isinstance(told, TrainingError) and told.exit_code == watching.RETRY


def test_who_finished_is_not_dead_and_who_is_silent_is() -> None:
    watch = Watchdog(Ranks(rank=0, world_size=3), FaultConfig(rank_s=5.0))
    long_ago = time.monotonic() - 60.0
    watch._others[1] = Heartbeat(left="", seen=long_ago)
    assert watch._silent(5.0) is None and watch._stopped() is None
    watch._others[2] = Heartbeat(activity="taking step 7", seen=long_ago)
    verdict = watch._silent(5.0)
    assert "rank 2 died: no sign of life for 60 s, the last while taking step 7" in str(verdict)
    assert verdict is not None and verdict.exit_code == watching.RETRY
