"""A small bundle whose two arms are phantoms of two populations: nothing but their drawing differs, so nothing may leak."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from medcodi.config import from_dict
from medcodi.data.images import save_png8
from medcodi.data.sources.phantom import phantom_study
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real

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
