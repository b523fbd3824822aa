"""The report: self-contained, escaped, complete."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from medcodi.app.cli import main
from medcodi.errors import DataError, MedCoDiError
from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.analysis.report import imrmc_text, write_report
from medcodi.turing.answers.schema import write_rows
from medcodi.turing.answers.table import Answers, answers_from_rows
from tests.unit.turing.simulated_rows import FACTS, simulated, write_table


def test_the_report_loads_nothing_and_escapes_what_readers_wrote(tmp_path: Path) -> None:
    rows = simulated()
    rows[0]["free_text"] = "<script>alert(1)</script> ribs & hila"
    rows[1]["free_text"] = "=1+1"
    answers = answers_from_rows(rows, FACTS)
    page = write_report(analyze(answers, num_resamples=200), answers, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=\"(?!#)", text) and "url(" not in text and "@import" not in text
    assert text.count("<svg") == 5  # bars, two forests, ROC, accuracy by trial
    assert "Obuchowski" in text and "margins declared in the study file before" in text
    assert not re.search(r"indistinguishable|proves|significant(ly)? (the )?same", text)
    names = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file()}
    assert {"results.json", "methods.txt", "tables/estimates.csv", "imrmc/detection.imrmc"} <= names
    assert "'=1+1" in (page.parent / "tables/comments.csv").read_text(encoding="utf-8")
    values = json.loads((page.parent / "results.json").read_text(encoding="utf-8"))
    with (page.parent / "tables/estimates.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(values["estimates"])


HOSTILE = (
    "[/]<script>alert(1)</script>",
    "[bold]=1+1",
    "=HYPERLINK(1)\n-1,x,0,1",
)  # for terminals, pages, spreadsheets


def test_names_from_data_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = simulated()
    names = dict(zip(sorted({row["reader"] for row in rows}), HOSTILE, strict=True))
    rows = [row | {"reader": names[row["reader"]], "case": f"={row['case']}"} for row in rows]
    # The second reader's answers end early, so that the terminal names this reader.
    rows = [row for row in rows if row["reader"] != HOSTILE[1] or row["task"] == "detection"]
    write_rows(tmp_path / "answers.csv", rows)
    with pytest.raises(SystemExit) as left:
        main(["turing", "analyze", str(tmp_path), "--out", str(tmp_path / "[red]out[/]"), "--resamples", "200"])
    printed = capsys.readouterr()
    assert left.value.code in (0, None), printed.err
    assert "not finished: [bold]=1+1" in printed.err and str(tmp_path / "[red]out[/]") in printed.out
    out = tmp_path / "[red]out[/]"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "[/]&lt;script&gt;" in page
    for path in (out / "tables").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            texts = [cell for row in csv.reader(file) for cell in row if not re.fullmatch(r"-?[\d.e+-]+", cell)]
        assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r"))], path.name
    # No name adds a line to the file of iMRMC.
    data = (out / "imrmc/detection.imrmc").read_text().partition("BEGIN DATA:\n")[2]
    assert all(len(line.split(",")) == 4 for line in data.splitlines())


def test_a_task_whose_name_is_a_path_is_refused(tmp_path: Path) -> None:
    rows = [row | {"task": "../../x"} for row in simulated() if row["task"] == "detection"]
    answers = answers_from_rows(rows)
    with pytest.raises(DataError, match=r"names the file '\.\./\.\./x\.imrmc'"):
        write_report(analyze(answers, num_resamples=200), answers, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_imrmc_holds_truth_and_scores(answers: Answers) -> None:
    text = imrmc_text(answers.of("detection"))
    head, _, data = text.partition("BEGIN DATA:\n")
    assert "N0: 20" in head and "N1: 20" in head and "NR: 3" in head
    rows = [line.split(",") for line in data.splitlines()]
    assert sum(row[0] == "-1" for row in rows) == 40 and len(rows) == 40 + 3 * 40
    one = next(row for row in answers.rows if row["task"] == "detection")
    score = one["confidence"] * (1 if one["choice"] == "generated" else -1)
    assert [one["reader"], one["item"], "detection", f"{score:g}"] in rows


def test_the_command_writes_the_report_and_refuses_a_full_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write_table(tmp_path / "table", simulated(), FACTS)
    arguments = ["turing", "analyze", str(table), "--out", str(tmp_path / "out"), "--resamples", "200"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code in (0, None) and (tmp_path / "out/report.html").is_file()
    assert "Equivalence" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert issubclass(DataError, MedCoDiError)
