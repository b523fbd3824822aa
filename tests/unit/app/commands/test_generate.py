"""``medcodi generate``: files written, reports printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.app.cli import REFUSED

Run = Callable[..., int]


def test_generate_writes_what_it_says(run: Run, model_folder: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = [
        "--model",
        model_folder,
        "--steps",
        "2",
        "--num-samples",
        "2",
        "--out",
        str(out),
        "--seed",
        "5",
        "--device",
        "cpu",
    ]
    assert run("generate", "--prompt", "report=Large left pleural effusion.", *options) == 0
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["0/frontal.png", "0/lateral.png", "1/frontal.png", "1/lateral.png", "provenance.json"]
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["direction"] == "report->frontal+lateral"
    assert provenance["seeds"] == [5, 6]
    assert run("generate", "--prompt", "report=x", *options) == REFUSED  # never on top of an earlier one


def test_a_generated_report_is_printed(
    run: Run, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", model_folder, "--steps", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run("generate", "--target", "report", *options) == 0
    said = capsys.readouterr().out
    assert "report, sample 0" in said and str(tmp_path / "out" / "report.txt") in said
