"""``medcodi generate``: files written, reports printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.app.cli import REFUSED
from medcodi.data.reports import normalise_report

Run = Callable[..., int]
CASES = Path(__file__).parents[3] / "cases"


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


def test_a_prompt_that_is_longer_than_the_model_reads_is_said_and_signed(
    run: Run, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = CASES / "text" / "long_report.txt"
    options = ["--model", model_folder, "--steps", "1", "--device", "cpu", "--target", "frontal"]
    assert run("generate", "--prompt", f"report=@{text}", *options, "--out", str(tmp_path / "long")) == 0
    said = capsys.readouterr().err
    prompt = json.loads((tmp_path / "long" / "provenance.json").read_text())["prompts"]["report"]
    cut = prompt["truncated"]
    assert 0 < cut["read_tokens"] < cut["tokens"]
    unread = normalise_report(text.read_text())[cut["read_characters"] :]
    assert f"{cut['read_tokens']} of {cut['tokens']} tokens of the report were read" in said
    assert f"Not read: {' '.join(unread.split())[:80]}" in said
    # What is not read has no influence; a short prompt is not signed.
    assert run("generate", "--prompt", "report=Short.", *options, "--out", str(tmp_path / "short")) == 0
    assert "Note:" not in capsys.readouterr().err
    short = json.loads((tmp_path / "short" / "provenance.json").read_text())
    assert set(short["prompts"]["report"]) == {"sha256", "weight"}
    other = normalise_report(text.read_text())[: cut["read_characters"]] + " Large pneumothorax."
    assert run("generate", "--prompt", f"report={other}", *options, "--out", str(tmp_path / "other")) == 0
    first, second = ((tmp_path / name / "frontal.png").read_bytes() for name in ("long", "other"))
    assert first == second
