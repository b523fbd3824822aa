"""A small bundle whose two arms are phantoms of two populations: nothing but their drawing differs, so nothing may leak."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medcodi.config import from_dict
from medcodi.data.images import save_png8
from medcodi.data.sources.phantom import phantom_study
from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.answers.table import Answers, answers_from_rows
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.items import ReaderItem, draw_items
from medcodi.turing.design.real_arm import open_real
from tests.unit.turing.planter import Planter
from tests.unit.turing.simulated_rows import FACTS, simulated

STUDY = {
    "name": "small",
    "title": "Reading chest examinations",
    "tasks": [
        {"id": "quality", "kind": "quality", "modalities": ["frontal"], "num_items": 3},
        {
            "id": "frontal",
            "kind": "real_or_generated",
            "modalities": ["frontal"],
            "num_items": 14,
            "repeats": 3,
            "practice": 2,
            "free_text": "Why?",
        },
        {"id": "pick", "kind": "forced_choice", "modalities": ["frontal"], "num_items": 4},
        {"id": "fit", "kind": "coherence", "modalities": ["frontal", "report"], "num_items": 5, "mismatched": 3},
        {"id": "find", "kind": "findings", "modalities": ["frontal"], "num_items": 2},
    ],
    "readers": 2,
    "image_size": 128,
    "blinding": {"crop": "none"},
    "margins": {"fit": 0.5, "frontal": 0.15},
}
NUM_CASES = 22


@pytest.fixture(scope="session")
def generated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated studies with a table, 8-bit PNGs of 96 pixels."""
    folder = tmp_path_factory.mktemp("generated")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "frontal", "report"])
        for index in range(NUM_CASES):
            study = phantom_study(7, index, 96)
            save_png8(study.images["frontal"], folder / f"{index}.png")
            writer.writerow([f"made-{index:03d}", f"{index}.png", study.report])
    return folder


@pytest.fixture(scope="session")
def small_study() -> ReaderStudyConfig:
    """Five tasks, 58 items."""
    return from_dict(ReaderStudyConfig, STUDY)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, generated_folder: Path, small_study: ReaderStudyConfig) -> Path:
    """The clean bundle. Read only: what plants a leak copies it."""
    out = tmp_path_factory.mktemp("turing") / "bundle"
    real = open_real("phantom", num_phantoms=NUM_CASES, image_size=128)
    made = open_generated(str(generated_folder), small_study.sampling, 0)
    export_bundle(small_study, real, made, out, salt="a salt for tests")
    return out


@pytest.fixture(scope="session")
def answers() -> Answers:
    return answers_from_rows(simulated(), FACTS)


@pytest.fixture(scope="session")
def results(answers: Answers) -> dict[str, Any]:
    return analyze(answers, num_resamples=300)


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., Path]:
    def write(values: dict[str, Any], name: str = "") -> Path:
        path = tmp_path / (name or f"{values['bundle_id']}-{values['reader']}.json")
        path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def items(small_study: ReaderStudyConfig, generated_folder: Path) -> list[ReaderItem]:
    made = open_generated(str(generated_folder), small_study.sampling, 0)
    return draw_items(small_study, open_real("phantom", num_phantoms=22, image_size=32), made)


@pytest.fixture
def planter(bundle: Path, tmp_path: Path) -> Planter:
    return Planter(bundle, tmp_path)
