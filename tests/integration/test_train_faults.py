"""What goes wrong on a cluster: each fault stops the run within a bounded time, says who and why, and leaves it able to go on."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from medcodi.config import from_dict, read_yaml
from medcodi.data.prepare import PrepareConfig, prepare
from medcodi.errors import CheckpointError, DataError, TrainingError
from medcodi.model import MedCoDi, tiny_model
from medcodi.training import checkpoint, run_folder
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train
from medcodi.training.processes import Processes
from tests.integration import forked
from tests.integration.conftest import tiny_config

QUIET = (
    "tracking.tensorboard=false",
    "tracking.samples_every=0",
    "tracking.validate_every=0",
    "tracking.log_every=1",
    "optimizer.schedule_horizon=1000",
)
SOON_S = 40.0  # the longest that a run may take to notice: seconds are expected, the machine may be busy


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen phantoms as a dataset on disk: read in no time."""
    out = tmp_path_factory.mktemp("data") / "phantoms"
    values = {"source": "phantom", "out": str(out), "image_size": 32, "options": {"num_studies": 16, "val": 4}}
    prepare(from_dict(PrepareConfig, values))
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that any stage can start from."""
    made = tiny_model(seed=0)
    made.trained_stages = ("autoencode", "align", "diffuse")
    return made.save_pretrained(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def config(prepared: Path, model: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Gives the config of a run in ``tmp_path/run``, of stage ``align`` unless told."""

    def made(*words: str, stage: str = "align") -> TrainConfig:
        words = words if "init=null" in words else ("model=null", *words)
        data = ("data.source=null", f"data.path={prepared}", "data.num_studies=null", "faults.rank_s=10")
        return tiny_config(stage, tmp_path / "run", model, *data, *QUIET, *words)

    return made


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
        if number % 4 == 3:  # while it starts, or a little later
            time.sleep(chance.uniform(0.0, 3.0))
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
    until(lambda: checkpoint.found(tmp_path / "run/checkpoints"), processes)
    killed(processes[victim])
    codes = forked.ended(settings, processes, SOON_S)
    assert codes[victim] == forked.KILLED and codes[1 - victim] > 0
    said = Path(f"{settings.out}.rank{1 - victim}.txt").read_text()
    assert f"rank {victim} died" in said and "--resume latest" in said
    assert whole(tmp_path / "run") >= 5
    forked.finished(config(f"steps={whole(tmp_path / 'run') + 1}"), resume="latest")  # on what is left


@pytest.mark.faults
def test_a_rank_that_is_silent_is_named_though_its_connections_stand(
    begun: Callable[..., list[Any]], config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    settings = config("steps=100000", "checkpoint.every=5")
    processes = begun(settings, ranks=2)
    until(lambda: checkpoint.found(tmp_path / "run/checkpoints"), processes)
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
    damaged = with_a_short_image(prepared, tmp_path / "damaged", row=3)
    settings = config("steps=100", f"data.path={damaged}")
    codes = forked.run(settings, ranks=2, timeout_s=SOON_S + 30)
    said = [Path(f"{settings.out}.rank{rank}.txt").read_text() for rank in (0, 1)]
    assert all(code > 0 for code in codes)
    assert all("study 'phantom-0-0000003' (number 3 of phantoms/train) cannot be read" in text for text in said)
    assert sum("stopped while" in text for text in said) == 1  # the one whose share it was not


# ---- pre-emption ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGUSR1), (2, signal.SIGTERM), (2, signal.SIGUSR1)])
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


# ---- the disk ------------------------------------------------------------------------------------------------------
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


# ---- numbers -------------------------------------------------------------------------------------------------------
def test_after_n_steps_that_are_not_finite_it_stops_with_a_saved_state(
    config: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("optimizer.lr=1e30", "optimizer.warmup_steps=0", "optimizer.grad_clip=null", "faults.max_skipped=3")
    with pytest.raises(
        TrainingError, match=r"3 steps in a row were not finite, the last with studies phantom-0-.*saved at step"
    ):
        train(config(*words, "steps=50"))
    assert capsys.readouterr().out.count("left out: its") >= 3
    assert 3 <= whole(tmp_path / "run") < 50


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
    assert codes[0] > 0 and message in said and "by worker 0 of 1" in said and "studies number (" in said


# ---- refused before the first step -----------------------------------------------------------------------------------
def with_a_short_image(source: Path, out: Path, row: int) -> Path:
    """A copy of a dataset in which one image has lost half of its bytes."""
    import pyarrow as pa

    shutil.copytree(source, out)
    info = json.loads((out / "dataset_info.json").read_text())
    first = 0
    for shard in info["shards"]["train"]:
        file = out / shard["file"]
        if first <= row < first + shard["rows"]:
            with pa.OSFile(str(file), "rb") as stream:
                table = pa.ipc.open_stream(stream).read_all()
            rows = table.to_pylist()
            rows[row - first]["frontal"] = rows[row - first]["frontal"][: 32 * 32]
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
            shard["bytes"] = file.stat().st_size
        first += shard["rows"]
    (out / "dataset_info.json").write_text(json.dumps(info))
    return out


def without_laterals(prepared: Path, out: Path) -> Path:
    """A copy of a dataset in which no study has a lateral image."""
    import pyarrow as pa

    shutil.copytree(prepared, out)
    info = json.loads((out / "dataset_info.json").read_text())
    for shard in [shard for shards in info["shards"].values() for shard in shards]:
        file = out / shard["file"]
        with pa.OSFile(str(file), "rb") as stream:
            table = pa.ipc.open_stream(stream).read_all()
        rows = [{**row, "lateral": None} for row in table.to_pylist()]
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
        shard["bytes"] = file.stat().st_size
    (out / "dataset_info.json").write_text(json.dumps(info))
    return out


def test_a_modality_that_the_stage_needs_and_no_study_has(
    config: Callable[..., TrainConfig], prepared: Path, tmp_path: Path
) -> None:
    data = f"data.path={without_laterals(prepared, tmp_path / 'poor')}"
    for stage in ("autoencode", "align", "diffuse", "join"):
        with pytest.raises(
            TrainingError, match="of the 16 studies of phantoms/train, none has lateral .*frontal in 16.*Mend"
        ):
            train(config(data, stage=stage))
        assert not list((tmp_path / "run").glob("checkpoints/*"))
        shutil.rmtree(tmp_path / "run")
    train(config(data, "steps=1", "stage.options.targets=[frontal,report]", stage="diffuse"))


def test_studies_of_another_size_than_the_model_takes(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    phantoms = ("data.path=null", "data.source=phantom", "data.num_studies=4", "data.image_size=48")
    with pytest.raises(TrainingError, match="prepared at 48 pixels, the model takes 32.*image_size=32"):
        train(config(*phantoms))
    with pytest.raises(DataError, match="prepared at 32 pixels, image_size is 64"):
        train(config("data.image_size=64"))
    validation = ("validation.image_size=48", "tracking.validate_every=1")
    with pytest.raises(TrainingError, match="^validation: .*prepared at 48 pixels"):
        train(config(*validation))
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_second_run_in_the_same_folder(config: Callable[..., TrainConfig]) -> None:
    settings = config("steps=1")
    holder = rf"another run is writing in .*/run: process {os.getpid()} on "
    with run_folder.opened(settings, None, Processes()), pytest.raises(TrainingError, match=holder):
        train(settings)
    train(settings)


def test_another_model_than_the_run_was_begun_with(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    recipe = read_yaml(Path(__file__).resolve().parents[2] / "configs/models/tiny.yaml")
    file = tmp_path / "model.yaml"
    import yaml

    file.write_text(yaml.safe_dump(recipe))
    fresh = ("init=null", f"model={file}", "steps=1")
    train(config(*fresh, stage="autoencode"))
    recipe["prompt_encoders"]["embed_dim"] = 2 * recipe["prompt_encoders"]["embed_dim"]
    file.write_text(yaml.safe_dump(recipe))
    with pytest.raises(CheckpointError, match=r"the run changed since step 1: model.prompt_encoders.embed_dim was"):
        train(config(*fresh, "steps=2", stage="autoencode"), resume="latest")
