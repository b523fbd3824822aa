"""Law 2: train n steps = train k, stop, resume to n. Bitwise: weights, average, optimiser, data order, logs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medcodi.config import load
from medcodi.errors import CheckpointError, TrainingError
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("autoencode", "align", "diffuse", "join")
QUIET = (
    "tracking.tensorboard=false",
    "tracking.samples_every=0",
    "tracking.validate_every=0",
    "optimizer.schedule_horizon=6",
)


def config(stage: str, runs: dict[str, Path], out: Path, *overrides: str) -> TrainConfig:
    before = STAGES.index(stage) - 1
    start = f"model={ROOT / 'configs/models/tiny.yaml'}" if before < 0 else f"init={runs[STAGES[before]] / 'model'}"
    # Five log steps, so that a stop falls between two lines and their means must be carried over.
    values = [f"out={out}", start, *QUIET, "tracking.log_every=5", "checkpoint.every=0", "steps=6", *overrides]
    return load(TrainConfig, ROOT / f"configs/train/tiny/{stage}.yaml", values)


def log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timing"} for line in lines]


def checksums(run: Path, step: int) -> dict[str, Any]:
    return json.loads((run / f"checkpoints/step-{step:08d}/manifest.json").read_text())["files"]


@pytest.mark.faults  # at every `make test`: the same with a real kill, tests/integration/test_exactness.py
@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_resumed_is_bit_for_bit_the_same(tiny_runs: dict[str, Path], tmp_path: Path, stage: str) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config(stage, tiny_runs, whole))
    train(config(stage, tiny_runs, parts, "checkpoint.every=3"))
    shutil.rmtree(parts / "checkpoints/step-00000006")  # as if killed after step 3, while step 6 was written to the log
    shutil.rmtree(parts / "model")
    train(config(stage, tiny_runs, parts), resume="latest")
    assert checksums(parts, 6) == checksums(whole, 6)
    assert set(checksums(whole, 6)) >= {"weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}
    assert log(parts) == log(whole) and [line["step"] for line in log(whole)] == [5, 6]
    for file in (whole / "model").glob("*.safetensors"):
        assert file.read_bytes() == (parts / "model" / file.name).read_bytes(), file.name


def test_stopped_early_on_purpose_and_made_longer_is_the_same_too(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config("align", tiny_runs, whole))
    train(config("align", tiny_runs, parts, "steps=3"))
    train(config("align", tiny_runs, parts), resume="latest")
    weights = ("weights.safetensors", "ema.safetensors", "optimizer.safetensors")
    assert all(checksums(parts, 6)[name] == checksums(whole, 6)[name] for name in weights)


def test_a_damaged_latest_falls_back_and_comes_to_the_same(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(config("align", tiny_runs, run, "checkpoint.every=2"))
    before = checksums(run, 6)
    weights = run / "checkpoints/step-00000006/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    train(config("align", tiny_runs, run, "checkpoint.every=2"), resume="latest")
    assert "going back to the one before" in capsys.readouterr().out
    assert checksums(run, 6) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("seed=1", "seed was 0, is 1"),
        ("optimizer.lr=0.5", "optimizer.lr"),
        ("data.num_studies=12", "dataset"),
        ("stage.options.shift=0.1", "stage.options.shift"),
    ],
)
def test_resuming_something_else_is_refused(
    tiny_runs: dict[str, Path], tmp_path: Path, change: str, named: str
) -> None:
    run = tmp_path / "run"
    train(config("align", tiny_runs, run, "steps=1"))
    with pytest.raises(CheckpointError, match=named):
        train(config("align", tiny_runs, run, change), resume="latest")


def test_resuming_from_other_starting_weights_is_refused(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config("align", tiny_runs, run, "steps=1"))
    with pytest.raises(CheckpointError, match="start was"):
        train(config("align", tiny_runs, run, f"init={tiny_runs['join'] / 'model'}"), resume="latest")


def test_beginning_in_the_folder_of_another_run_is_refused(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config("align", tiny_runs, run, "steps=1"))
    with pytest.raises(TrainingError, match="--resume latest"):
        train(config("align", tiny_runs, run))


def test_resume_latest_without_any_checkpoint_begins(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    run = train(config("align", tiny_runs, tmp_path / "run", "steps=1"), resume="latest")
    assert (run / "model/model_index.json").is_file()


def test_max_minutes_saves_a_model_and_can_go_on(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config("align", tiny_runs, run, "max_minutes=0.000001"))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001"]
    assert (run / "model/model_index.json").is_file()
    train(config("align", tiny_runs, run), resume="latest")
    assert (run / "checkpoints/step-00000006").is_dir()


@pytest.mark.faults
def test_sigterm_saves_and_exits(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [f"out={run}", f"init={tiny_runs['autoencode'] / 'model'}", *QUIET, "steps=100000", "tracking.log_every=1"]
    command = [sys.executable, "launch/train.py", "--config", "configs/train/tiny/align.yaml", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 200
    while not (run / "log.jsonl").exists() or not (run / "log.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "SIGTERM received: saved at step" in output
    assert len(list((run / "checkpoints").glob("step-*"))) >= 1
