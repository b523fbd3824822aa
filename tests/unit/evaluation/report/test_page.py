"""The page: its parts follow from results and contents alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medcodi.evaluation.report.page import sections, write_results_page

OLD = Path(__file__).parents[3] / "golden/version_0_1/bundle/results.json"


def results() -> dict:
    """Results of a tiny model, with one study shown."""
    stored = json.loads(OLD.read_text())
    note = "right: No Finding"
    picture = {
        "title": "random study", "row": 3, "place": 3, "study_id": "s3", "truth": "Edema (left)", "real": {"report": note},
        "generated": {"tiny": {"frontal": "missed: Edema"}},
    }  # fmt: skip
    return {**stored, "pictures": {"report->frontal": [picture]}}


def test_a_study_is_shown_with_prompt_generation_and_truth() -> None:
    seen: list[tuple] = []

    def real(modality: str, picture: dict):
        seen.append((modality, picture["row"]))
        return "A report." if modality == "report" else np.zeros((8, 8))

    def generated(system: str, direction, picture: dict) -> dict:
        seen.append((system, str(direction), picture["row"]))
        return {"frontal": np.ones((8, 8))}

    part = next(part for part in sections(results(), real, generated) if part.title == "Pictures")
    (row,) = part.parts[0].rows
    assert [(cell.role, cell.note) for cell in row.cells] == [
        ("prompt", "right: No Finding"), ("generated", "missed: Edema"), ("truth", ""),
    ]  # fmt: skip
    assert row.note == "study s3; truth: Edema (left)"
    assert set(seen) == {("report", 3), ("frontal", 3), ("tiny", "report->frontal", 3)}


def test_without_pictures_no_content_is_looked_up(tmp_path: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    path = write_results_page(tmp_path / "page.html", {**results(), "pictures": {}}, never, never)  # type: ignore[arg-type]
    page = path.read_text()
    assert "Pictures" not in page and "data:image/png" not in page and "--rescore" in page and "https://" not in page
