"""All four stages under `deepspeed` on two CPU ranks with ZeRO-2, and those that look at other ranks' rows under `torchrun`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medcodi.model import MedCoDi

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("autoencode", "align", "diffuse", "join")
DEEPSPEED = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
QUIET = ("tracking.tensorboard=false", "tracking.samples_every=0", "checkpoint.every=0")


def launched(launcher: list[str], stage: str, out: Path, init: Path | None, *words: str) -> list[dict]:
    """Run a stage on two ranks; the lines of its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = [] if init is None else [f"init={init}"]
    options = ["--config", f"configs/train/tiny/{stage}.yaml", f"out={out}", *start, *QUIET, *words]
    command = [*launcher, "--master_port", str(port), "launch/train.py", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(lines: list[dict]) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


def plain(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_four_stages_under_deepspeed(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    init: Path | None = None
    for done, stage in enumerate(STAGES, start=1):
        lines = launched(DEEPSPEED, stage, tmp_path / stage, init, "engine.zero_stage=2")
        assert losses(lines) == pytest.approx(losses(plain(tiny_runs[stage])), abs=2e-4), stage  # one rank's, chained
        init = tmp_path / stage / "model"
        assert MedCoDi.from_pretrained(init).trained_stages == STAGES[:done]


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(
    ("launcher", "stage"),
    [
        pytest.param(DEEPSPEED, "align", id="deepspeed-align"),
        pytest.param(TORCHRUN, "align", id="torchrun-align", marks=pytest.mark.faults),
        pytest.param(TORCHRUN, "join", id="torchrun-join", marks=pytest.mark.faults),
    ],
)
def test_two_ranks_under_a_launcher_see_what_one_sees(
    tiny_runs: dict[str, Path], tmp_path: Path, launcher: list[str], stage: str
) -> None:
    if launcher is DEEPSPEED:
        pytest.importorskip("deepspeed")
    lines = launched(launcher, stage, tmp_path / "run", tiny_runs[STAGES[STAGES.index(stage) - 1]] / "model")
    expected = plain(tiny_runs[stage])
    assert losses(lines) == pytest.approx(losses(expected), abs=1e-5)
    validation = [line["validation/loss"] for line in (*lines, *expected) if "validation/loss" in line]
    assert validation[0] == pytest.approx(validation[1], abs=1e-5)
