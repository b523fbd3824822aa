"""benchmarks/real_words.py on a table of invented reports: which are chosen, and what is written."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
FINDINGS = ("cardiomegaly", "effusion", "pneumothorax", "consolidation", "edema", "nodule")


def table_of(path: Path) -> Path:
    """Three abnormal reports, of which one has no words, two normal ones, one without labels."""
    rows = [
        ("A1", "The heart is enlarged.", {"cardiomegaly": "1.0"}),
        ("A2", "Left pleural effusion. Heart size normal.", {"effusion": "1.0"}),
        ("A3", "", {"edema": "1.0"}),
        ("N1", "No acute disease.", {"normal": "1.0"}),
        ("N2", "The lungs are clear.", {"normal": "1.0"}),
        ("U1", "Unlabelled.", {name: "" for name in FINDINGS}),
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["uid", "findings", "impression", *(f"gold_{n}" for n in (*FINDINGS, "normal"))])
        writer.writeheader()
        for uid, text, gold in rows:
            values = {f"gold_{name}": gold.get(name, "0.0") for name in (*FINDINGS, "normal")}
            writer.writerow({"uid": uid, "findings": text, "impression": "", **values})
    return path


def test_reports_with_a_finding_and_normal_ones_are_generated_from_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    module = runpy.run_path(str(FOLDER / "real_words.py"))
    path = table_of(tmp_path / "reports.csv")
    ids, texts, truth = module["read_reports"](path, num_normal=1, most=None)
    assert ids[:2] == ["A1", "A2"] and ids[2] in ("N1", "N2") and len(ids) == 3
    assert "heart is enlarged" in texts[0] and truth[:, :2].tolist() == [[1, 0], [0, 1], [0, 0]]

    out = tmp_path / "real_words.json"
    module["main"](
        ["--reports", str(path), "--num-normal", "2", "--most", "1", "--preset", "faster", "--out", str(out)]
    )
    result = json.loads(out.read_text())
    assert result["num_reports"] == 3 and result["num_abnormal"] == 1
    assert result["findings"]["Cardiomegaly"]["positives"] == 1 and 0 <= result["micro_f1"]["value"] <= 1
    assert "heart" not in out.read_text()  # no text of a report is stored
