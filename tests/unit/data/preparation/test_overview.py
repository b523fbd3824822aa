"""A dataset to look at: studies of each split, the ledger's reasons, on the terminal and on a page."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from medcodi.app.cli import main
from medcodi.data.dataset import open_dataset
from medcodi.data.images import save_png8
from medcodi.data.preparation.ledger import overview, read_ledger, write_overview
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.errors import DataError

HOSTILE = "<b>[bold]x"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve studies, two of them left out: a missing film, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("source")
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "patient_id", "split", "view", "image", "report", "age", "Edema"])
        for index, split in enumerate(splits):
            save_png8(np.random.default_rng(index).random((40, 40)), folder / f"{index}.png")
            report = HOSTILE if index == 0 else f"Findings number {index}. " + "The lungs are clear. " * 4
            writer.writerow([f"s{index}", f"p{index}", split, "PA", f"{index}.png", report, 40 + index, index % 2])
    (folder / "3.png").unlink()
    (folder / "11.png").write_text("no picture")
    out = folder / "mine"
    options = {"columns": {"record.age": "age"}}
    prepare(
        PrepareConfig(
            source="csv", path=str(folder / "t.csv"), out=str(out), image_size=32, max_bad_fraction=0.5, options=options
        )
    )
    return out


def test_studies_and_reasons_are_those_of_the_files(data: Path) -> None:
    seen = overview(data, num=2)
    assert [(row.split, row.index) for row in seen.studies] == [
        (split, i) for split in ("train", "val", "test") for i in (0, 1)
    ]
    for row in seen.studies:
        study = open_dataset(data, row.split)[row.index]
        assert (row.study.study_id, row.study.report, row.study.record) == (study.study_id, study.report, study.record)
        assert row.study.record and {entry.study_id for entry in row.entries} == {study.study_id}
    assert dict(seen.splits) == {"train": 5, "val": 2, "test": 3} and seen.modalities["frontal"] == 10
    left_out = [entry for entry in read_ledger(data) if entry.reason]
    assert seen.num_left_out == len(left_out) > 0
    assert {reason.reason: len(reason.examples) for reason in seen.left_out} == {
        reason: sum(entry.reason == reason for entry in left_out) for reason in {entry.reason for entry in left_out}
    }
    assert {"missing file"} < {reason.reason for reason in seen.left_out}
    # A part of one split, for a page that turns.
    assert [row.study.study_id for row in overview(data, split="train", start=3, num=9).studies] == [
        open_dataset(data, "train").study_id(i) for i in (3, 4)
    ]
    assert overview(data, split="train", start=99).studies == []


def test_what_cannot_be_shown_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown split 'tets'.*did you mean 'test'"):
        overview(data, split="tets")
    with pytest.raises(DataError, match="no dataset folder at"):
        overview(tmp_path / "none")


def test_the_command_prints_what_is_there_and_writes_a_page(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as stop:
        main(["data", "show", str(data), "--n", "3", "--out", str(page)])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and HOSTILE in printed and "age=40" in printed and "missing file" in printed
    assert "5 train, 2 val, 3 test" in printed and str(page) in printed.replace("\n", "")
    text = page.read_text()
    assert HOSTILE not in text and "&lt;b&gt;[bold]x" in text and "http" not in text
    assert re.findall(r'<article data-split="(\w+)"', text) == ["train"] * 3 + ["val"] * 2 + ["test"] * 3
    assert text.count("data:image/png") == 8 and "left out: missing file" not in text and "missing file" in text
    # Somebody's file is not replaced.
    page.write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["data", "show", str(data), "--out", str(page)])
    assert stop.value.code == 2 and page.read_text() == "mine" and capsys.readouterr().out == ""
    with pytest.raises(DataError, match="is not a page that MedCoDi wrote"):
        write_overview(overview(data), page)
