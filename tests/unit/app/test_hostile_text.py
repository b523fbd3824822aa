"""Brackets, escapes and formulas out of tables, paths and models are printed as they are, and end no command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.app.cli import REFUSED, main
from medcodi.app.commands.doctor import Check, print_checks
from medcodi.app.terminal import out, print_results
from medcodi.data.dataset import open_dataset
from medcodi.errors import DataError
from tests.unit.evaluation.report.conftest import results

Run = Callable[..., int]
HOSTILE = "[/] [bold]x :warning: \x1b[31m"
SHOWN = "[/] [bold]x :warning: ␛[31m"


def test_a_view_named_by_brackets_is_in_the_table_of_a_preparation(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["study_id,patient_id,view,image"]
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        rows.append(f"s{index},p{index},{'PA' if index else HOSTILE},{index}.png")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    data = tmp_path / "data [1]"
    assert (
        run("data", "prepare", "--source", "csv", "--out", str(data), f"path={tmp_path / 't.csv'}", "image_size=32")
        == 0
    )
    printed = capsys.readouterr()
    assert SHOWN in printed.out and "\x1b[31m" not in printed.out + printed.err
    assert len(open_dataset(data, "train")) > 0


def test_paths_and_prompts_of_generate_and_synthesize(
    run: Run, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", model_folder, "--steps", "1", "--device", "cpu"]
    assert run("generate", "--target", "report", *options, "--out", str(tmp_path / "a[/b]")) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "a[/b]" / "report.txt") in printed.splitlines()
    assert run("generate", "--prompt", f"frontal={tmp_path}/[/].png", *options, "--out", str(tmp_path / "b")) == REFUSED
    assert f"{tmp_path}/[/].png" in capsys.readouterr().err
    # A row that fails is shown with its own message, in a folder with a bracket.
    (tmp_path / "m.csv").write_text(f"id,report,frontal\na,Clear.,\nb,,{HOSTILE}.png\n")
    folder = tmp_path / "out[bold]"
    assert run("synthesize", "--manifest", str(tmp_path / "m.csv"), "--out", str(folder), *options) == 3
    printed = capsys.readouterr()
    assert (
        str(folder / "results.csv") in printed.out.splitlines()
        and SHOWN in printed.err
        and "\x1b[31m" not in printed.err
    )


def test_names_in_an_evaluation_and_a_check_of_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = {
        **results()["systems"]["demo"],
        "coverage": {},
        "truncated_prompts": {"report": {"studies": 9, "truncated": 3}},
    }
    data = {"data": {"phantoms": True, "num_studies": 500}, "excluded": []}
    named = {name: system for name in (HOSTILE, "[/]")}  # of two systems the tables give the names
    comparisons = {**results()["comparisons"], "multi_prompt": []}
    print_results({**results(), **data, "systems": named, "comparisons": comparisons}, tmp_path / "[/]")
    printed = capsys.readouterr()
    assert SHOWN in printed.out.replace("\n", "") and f"Note: {SHOWN}: 3 of 9 prompts" in printed.err
    assert "Note: [/]: 3 of 9 prompts" in printed.err and "\x1b[31m" not in printed.out + printed.err
    assert f"The page: {tmp_path}/[/]/page.html" in printed.out
    print_checks([Check(HOSTILE, "missing", HOSTILE, fix=HOSTILE)], out)
    assert capsys.readouterr().out.count(SHOWN) == 4


def test_a_model_that_names_itself_with_brackets(
    model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    index["config"]["name"] = HOSTILE
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(SystemExit):
        main(["parameters", str(folder)])
    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_refusal_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from medcodi.app.cli import print_refusal

    print_refusal(DataError(HOSTILE, expected=HOSTILE, fix=HOSTILE))
    assert capsys.readouterr().err == f"Error: {SHOWN}.\nExpected: {SHOWN}.\nFix: {SHOWN}.\n"
