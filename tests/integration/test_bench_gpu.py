"""The benchmark of a card runs from end to end on a CPU at tiny size, so that its first run on a card is not its first run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
IN_PROCESS = ("denoiser", "diffuse", "films", "align", "demo")
ONLY_ON_A_CARD = "precision fp16 on the CPU"


@pytest.fixture(scope="module")
def gpu() -> Any:
    """The script as a module, with its neighbours on the path."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("gpu")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def rows_of(gpu: Any, part: str) -> list[dict[str, Any]]:
    setup = importlib.import_module("card").Setup("cpu", "tiny", 0.01)
    with torch.random.fork_rng(devices=[]):
        return list(gpu.rows_of(part, setup))


@pytest.mark.long
@pytest.mark.parametrize("part", IN_PROCESS)
def test_every_row_of_a_part_is_measured(gpu: Any, part: str) -> None:
    rows = rows_of(gpu, part)
    problems = [row for row in rows if "error" in row and ONLY_ON_A_CARD not in row["error"]]
    assert rows and not problems
    json.dumps(rows, allow_nan=False)
    timed = [row["seconds"] for row in rows if "seconds" in row]
    assert timed and all(0 < seconds["min"] <= seconds["median"] <= seconds["max"] for seconds in timed)
    assert all(row["mfu"] > 0 and row["estimated_gib"] > 0 for row in rows if "mfu" in row)


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--device", "cpu", "--tiny", "--out", str(out), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.long
def test_a_part_writes_its_rows(tmp_path: Path) -> None:
    done = run(tmp_path, "--parts", "machine")
    machine = json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))
    assert done.returncode == 0 and machine["status"] == "complete", done.stdout + done.stderr
    assert {row["what"] for row in machine["rows"]} == {"environment", "product", "copy", "attention"}


def test_parts_that_no_time_is_left_for_say_so(tmp_path: Path) -> None:
    done = run(tmp_path, "--minutes", "0.01")
    results = [json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("*.json")]
    assert done.returncode == 0 and len(results) == 8
    assert {result["status"] for result in results} == {"no time left"}


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--parts", "denoisers")
    assert done.returncode == 2 and "unknown part denoisers" in done.stderr and not list(tmp_path.iterdir())


def test_a_part_that_is_ended_leaves_its_rows(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of seconds under a limit of less: the process is gone, and its file says why."""
    arguments = gpu.argparse.Namespace(device="cpu", size="tiny", budget=0.01)
    result = gpu.measure("machine", 0.5, arguments, tmp_path)
    written = json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))
    assert written["status"] == result["status"] == "ended at its limit of 0.5 s" and written["rows"] == []
