"""The ledger accounts for every file."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from medcodi.data.preparation.ledger import Entry, Ledger, entries_of
from medcodi.data.sources.announced import AnnouncedStudy, LeftOut, Loaded
from medcodi.data.tables import text_of_cell
from medcodi.study import Study


def entry(study: str, modality: str, split: str, view: str = "", reason: str = "") -> Entry:
    return Entry(
        file=f"{study}.{modality}",
        study_id=study,
        patient_id="p",
        modality=modality,
        view=view,
        split=split,
        reason=reason,
    )


LEDGER = Ledger(
    source="unit",
    entries=[
        entry("a", "frontal", "train", "PA"),
        entry("a", "report", "train"),
        entry("b", "frontal", "test", "AP"),
        entry("b", "", "", "XX", "unknown view"),
        entry("c", "frontal", "", "PA", "missing file"),
        entry("c", "report", "", "", "study left out"),
    ],
    num_studies=3,
    left_out=1,
)


def test_counts_of_a_small_ledger_by_hand() -> None:
    assert LEDGER.num_kept == 2
    assert LEDGER.counts() == {
        "source": "unit",
        "files": {"in the source": 6, "kept": 3, "left out": 3},
        "studies": {"in the source": 3, "kept": 2, "left out": 1},
        "split": {"train": 1, "test": 1},
        "modality": {"frontal": 2, "report": 1},
        "view": {
            "XX": {"left out": 1},
            "frontal AP": {"test": 1},
            "frontal PA": {"train": 1, "left out": 1},
            "report": {"train": 1, "left out": 1},
        },
        "reason": {"unknown view": 1, "missing file": 1, "study left out": 1},
    }


def test_it_is_written_row_by_row_and_printed(tmp_path: Path) -> None:
    LEDGER.write(tmp_path)
    with (tmp_path / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reason"] for row in rows] == [each.reason for each in LEDGER.entries]
    assert json.loads((tmp_path / "ledger.json").read_text()) == LEDGER.counts()
    console = Console(record=True, width=100)
    console.print(LEDGER)
    assert "missing file" in (text := console.export_text()) and "frontal PA" in text


def test_a_study_that_is_left_out_names_the_file_to_blame_and_the_others() -> None:
    record = AnnouncedStudy(
        study_id="s", patient_id="p", images={"frontal": Path("f.png"), "lateral": Path("l.png")},
        spare=(LeftOut(file="again.png", reason="second image of a view", detail=""),),
    )  # fmt: skip
    refused = LeftOut(file="f.png", reason="missing file", detail="f.png is missing")
    rows = [(each.file, each.modality, each.reason) for each in entries_of(record, Loaded(refused=refused), "train")]
    assert rows == [
        ("again.png", "", "second image of a view"),
        ("f.png", "frontal", "missing file"),
        ("l.png", "lateral", "study left out"),
    ]
    kept = Study(study_id="s", patient_id="p", contents={"report": "Clear."})
    rows = [(each.file, each.split, each.reason) for each in entries_of(record, Loaded(study=kept), "val")]
    assert rows == [("again.png", "", "second image of a view"), ("s", "val", "")]


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    entry = Entry(
        file="=cmd|' /C calc'!A0", study_id="@SUM(1)", patient_id="+1", modality="frontal", view="-2+3", split="", reason="x", detail="y",
    )  # fmt: skip
    Ledger(source="csv", entries=[entry], num_studies=1, left_out=1).write(tmp_path)
    with (tmp_path / "ledger.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())
    assert {key: text_of_cell(cell) for key, cell in row.items()} == {**asdict(entry)}
