"""What goes wrong on a cluster: each fault stops the run within a bounded time, says who and why, and leaves it able to go on."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from medcodi.errors import MedCoDiError, TrainingError
from medcodi.model import MedCoDi
from medcodi.training import checkpoint
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train
from tests.integration import forked
from tests.integration.rewritten import rewritten

REFUSED, AGAIN = MedCoDiError.exit_code, 3  # starting it again changes nothing, or may
SOON_S = 40.0  # the longest that a run may take to notice: seconds are expected, the machine may be busy


@pytest.fixture
def begun() -> Iterator[Callable[..., list[Any]]]:
    """Begins runs, and leaves none of their processes behind."""
    all_of_them: list[psutil.Process] = []

    def start(config: TrainConfig, **options: Any) -> list[Any]:
        processes = forked.started(config, **options)
        all_of_them.extend(psutil.Process(process.pid) for process in processes)
        return processes

    yield start
    for process in all_of_them:
        if process.is_running():
            for one in (*process.children(recursive=True), process):
                one.kill()


def until(there: Callable[[], Any], processes: list[Any], seconds: float = 120.0) -> None:
    """Wait for something to be there, as long as the processes live."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline and all(process.is_alive() for process in processes)
        time.sleep(0.002)


def being_written(folder: Path, since: float) -> bool:
    """Whether a checkpoint that was begun after a moment is not whole, or was not when its run was killed."""
    try:
        return any(path.stat().st_mtime > since for path in folder.glob(".step-*.partial"))
    except FileNotFoundError:  # just now it has become whole
        return False


def lines(run: Path) -> int:
    return len((run / "log.jsonl").read_text().splitlines()) if (run / "log.jsonl").exists() else 0


def holds(run: Path, process: Any) -> bool:
    """Whether a process has taken the run's folder."""
    lock = run / ".lock"
    return lock.exists() and f"process {process.pid} " in lock.read_text()


def killed(process: Any, number: int = signal.SIGKILL) -> None:
    os.kill(process.pid, number)


def whole(run: Path) -> int:
    """Step of the newest checkpoint; all of them are whole, and there is one."""
    saved = checkpoint.load_latest(run / "checkpoints", pytest.fail)
    assert saved is not None
    return saved.step


# ---- kills ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ranks", "kills"),
    [(1, 4), pytest.param(1, 24, marks=pytest.mark.faults), pytest.param(2, 20, marks=pytest.mark.faults)],
)
@pytest.mark.timeout(1800)
def test_killed_at_any_moment_it_goes_on_and_comes_to_the_same(
    begun: Callable[..., list[Any]], config: Callable[..., TrainConfig], tmp_path: Path, ranks: int, kills: int
) -> None:
    steps = 10 * kills
    words = (f"steps={steps}", "checkpoint.every=1", "checkpoint.keep=3", "optimizer.lr=1e-4")
    undisturbed = forked.finished(config(*words, f"out={tmp_path / 'undisturbed'}"), ranks=ranks, timeout_s=900)
    run, chance = tmp_path / "run", random.Random(7)
    inside = last = 0
    for number in range(kills):
        folder, since = run / "checkpoints", time.time()
        processes = begun(config(*words), ranks=ranks, resume="latest")
        if number % 4 == 3:  # while it starts
            until(lambda processes=processes: holds(run, processes[0]), processes)
        else:
            until(lambda folder=folder, since=since: being_written(folder, since), processes)
            time.sleep(chance.uniform(0.0, 0.3) if number % 4 == 2 else chance.uniform(0.0, 0.003))
        # One rank; or all of them, where they may not have found each other yet: that they wait for longer.
        victims = range(ranks) if number % 4 == 3 else [chance.randrange(ranks)]
        for victim in victims:
            killed(processes[victim])
        codes = forked.ended(config(), processes, SOON_S)
        assert all(codes) and all(codes[victim] == forked.KILLED for victim in victims)
        inside += being_written(folder, since)
        saved = checkpoint.load_latest(folder, pytest.fail)
        assert (0 if saved is None else saved.step) >= last
        last = 0 if saved is None else saved.step
    forked.finished(config(*words), ranks=ranks, resume="latest", timeout_s=900)
    assert forked.tensors(run, steps) == forked.tensors(undisturbed, steps)
    assert forked.log(run) == forked.log(undisturbed)
    assert inside >= kills // 4
    MedCoDi.from_pretrained(run / "model")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_is_named_by_the_other(
    begun: Callable[..., list[Any]], config: Callable[..., TrainConfig], tmp_path: Path, victim: int
) -> None:
    settings = config("steps=100000", "checkpoint.every=5")
    processes = begun(settings, ranks=2)
    until(lambda: checkpoint.finished(tmp_path / "run/checkpoints"), processes)
    killed(processes[victim])
    codes = forked.ended(settings, processes, SOON_S)
    assert codes[victim] == forked.KILLED and codes[1 - victim] == AGAIN
    said = Path(f"{settings.out}.rank{1 - victim}.txt").read_text()
    assert f"rank {victim} died" in said and "--resume latest" in said
    assert whole(tmp_path / "run") >= 5
    train(config(f"steps={whole(tmp_path / 'run') + 1}"), resume="latest")  # on what is left


@pytest.mark.faults
def test_a_rank_that_is_silent_is_named_though_its_connections_stand(
    begun: Callable[..., list[Any]], config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    settings = config("steps=100000", "checkpoint.every=5")
    processes = begun(settings, ranks=2)
    until(lambda: checkpoint.finished(tmp_path / "run/checkpoints"), processes)
    killed(processes[1], signal.SIGSTOP)  # as a machine that is cut off: nothing is closed
    try:
        until(lambda: not processes[0].is_alive(), processes[1:], SOON_S)
    finally:
        killed(processes[1], signal.SIGKILL)
    assert processes[0].exitcode
    assert "rank 1 died: no sign of life for" in Path(f"{settings.out}.rank0.txt").read_text()


def test_a_rank_that_stops_by_an_error_is_quoted_by_the_other(
    config: Callable[..., TrainConfig], prepared: Path, tmp_path: Path
) -> None:
    damaged = rewritten(
        prepared,
        tmp_path / "damaged",
        lambda row, study: {**study, "frontal": study["frontal"][: 2048 if row - 3 else 1024]},
    )
    settings = config("steps=100", f"data.path={damaged}")
    codes = forked.run(settings, ranks=2, timeout_s=SOON_S + 30)
    said = [Path(f"{settings.out}.rank{rank}.txt").read_text() for rank in (0, 1)]
    assert codes == [REFUSED, REFUSED]
    assert all("study 'phantom-0-0000003' (number 3 of phantoms/train) cannot be read" in text for text in said)
    assert sum("stopped while" in text for text in said) == 1  # the one whose share it was not


# ---- pre-emption ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ranks", "number"),
    [(1, signal.SIGUSR1), (2, signal.SIGTERM), pytest.param(2, signal.SIGUSR1, marks=pytest.mark.faults)],
)
def test_a_signal_to_any_rank_saves_and_exits(
    begun: Callable[..., list[Any]],
    config: Callable[..., TrainConfig],
    tmp_path: Path,
    ranks: int,
    number: signal.Signals,
) -> None:
    settings = config("steps=100000", "checkpoint.every=0")
    processes = begun(settings, ranks=ranks)
    until(lambda: lines(tmp_path / "run") > 1, processes)
    killed(processes[-1], number)
    killed(processes[-1], number)  # the launcher passes on what the scheduler has sent already
    assert forked.ended(settings, processes, SOON_S) == [0] * ranks
    assert "saved at step" in Path(f"{settings.out}.rank0.txt").read_text()
    assert whole(tmp_path / "run") == lines(tmp_path / "run")


# ---- the disk of one rank --------------------------------------------------------------------------------------------
@pytest.mark.faults
def test_a_disk_that_fills_up_under_the_first_rank_stops_both(
    begun: Callable[..., list[Any]], config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    settings = config("steps=100000", "checkpoint.every=5")
    processes = begun(settings, ranks=2)
    until(lambda: checkpoint.finished(tmp_path / "run/checkpoints"), processes)
    resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, (20_000, 20_000))  # no file of it can grow beyond
    assert all(code > 0 for code in forked.ended(settings, processes, SOON_S))
    said = [Path(f"{settings.out}.rank{rank}.txt").read_text() for rank in (0, 1)]
    assert all("cannot be written: File too large" in text and "make room" in said[0] for text in said)
    assert "rank 0 stopped while" in said[1]
    assert whole(tmp_path / "run") >= 5
    assert not any((tmp_path / "run/checkpoints").glob(".*"))


# ---- numbers -------------------------------------------------------------------------------------------------------
def test_after_n_steps_that_are_not_finite_it_stops_with_a_saved_state(
    config: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("optimizer.lr=1e30", "optimizer.warmup_steps=0", "optimizer.grad_clip=null", "faults.max_skipped=3")
    with pytest.raises(
        TrainingError, match=r"3 steps in a row were not finite, the last with studies phantom-0-.*saved at step"
    ):
        train(config(*words, "steps=50"))
    assert capsys.readouterr().out.count("skipped: its") >= 3
    assert 3 <= whole(tmp_path / "run") < 50
    saved = checkpoint.load_latest(tmp_path / "run/checkpoints", pytest.fail)
    assert saved is not None and all(value.isfinite().all() for value in saved.tensors["weights"].values())


# ---- the loader ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGSTOP, r"did not come"), (signal.SIGKILL, "Expected workers that live")],
)
def test_a_loader_that_stalls_or_dies_is_named(
    begun: Callable[..., list[Any]],
    config: Callable[..., TrainConfig],
    tmp_path: Path,
    number: signal.Signals,
    message: str,
) -> None:
    settings = config("steps=100000", "num_workers=1", "faults.data_s=5", "checkpoint.every=0")
    processes = begun(settings)
    until(lambda: lines(tmp_path / "run") > 1, processes)
    worker = next(
        child for child in psutil.Process(processes[0].pid).children(recursive=True) if child.name() == "pt_data_worker"
    )
    worker.send_signal(number)
    try:
        codes = forked.ended(settings, processes, SOON_S)
    finally:
        if worker.is_running():
            worker.kill()
    said = Path(f"{settings.out}.rank0.txt").read_text()
    assert codes == [AGAIN] and message in said and "by worker 0 of 1" in said and "studies number (" in said


# ---- the end -------------------------------------------------------------------------------------------------------
def same_as_average(run: Path, steps: int) -> bool:
    """Whether a run's model holds, tensor by tensor, the averaged weights of its last checkpoint."""
    state = {f"model.{name}": value for name, value in MedCoDi.from_pretrained(run / "model").state_dict().items()}
    ema = load_file(run / f"checkpoints/step-{steps:08d}/ema.safetensors")
    return bool(ema) and all(state[name].equal(value) for name, value in ema.items())


@pytest.mark.faults
@pytest.mark.parametrize("zero_stage", [None, 0, 1, 2, 3])
def test_at_the_end_of_two_ranks_there_is_a_whole_model_of_averaged_weights(
    config: Callable[..., TrainConfig], zero_stage: int | None
) -> None:
    engine = (
        ("engine.name=plain",) if zero_stage is None else (f"engine.zero_stage={zero_stage}", "engine.name=deepspeed")
    )
    run = forked.finished(config("steps=3", *engine, "engine.persist_below=0", stage="diffuse"), ranks=2)
    assert same_as_average(run, 3)


def test_killed_while_the_model_is_written_it_writes_it_the_next_time(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    settings, run = config("steps=2"), tmp_path / "run"
    assert forked.run(settings, kill_at=".model.*") == [forked.KILLED]
    assert not (run / "model").exists() and whole(run) == 2
    train(settings, resume="latest")
    assert same_as_average(run, 2) and not any(run.glob(".model.*"))
