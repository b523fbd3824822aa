from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.errors import DataError
from medcodi.model import MedCoDi
from medcodi.randomness import numpy_generator
from medcodi.study import Study
from medcodi.trust.privacy.near_copies import exclude_near_copies


class Films:
    """Training studies: smooth random films."""

    name, fingerprint, image_size = "films", "films", 32

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Study:
        coarse = numpy_generator("film", index).random((8, 8))
        film = np.kron(coarse, np.ones((4, 4))).astype(np.float32)
        return Study(study_id=f"s{index}", patient_id=f"p{index}", contents={"frontal": film})


def synthesis(folder: Path, films: dict[str, np.ndarray]) -> Path:
    """A finished synthesis of these films."""
    folder.mkdir()
    lines = ["study_id,frontal,report_text"]
    for name, film in films.items():
        Image.fromarray((film * 255).astype(np.uint8)).save(folder / f"{name}.png")
        lines.append(f'{name},{name}.png,"Clear, as before."')
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_near_copies_leave_the_results_and_are_counted(tiny_model: MedCoDi, tmp_path: Path) -> None:
    training = Films()
    copied = np.asarray(training[7].contents["frontal"])
    other = np.kron(numpy_generator("new").random((8, 8)), np.ones((4, 4))).astype(np.float32)
    films = {"copy": copied, "shifted": np.roll(copied, 1, 1), "new": np.flipud(other).copy()}
    out = synthesis(tmp_path / "out", films)
    excluded, generated = exclude_near_copies(out, training, tiny_model)
    assert generated == 3 and excluded >= 2
    with (out / "near_copies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["training_study"] for row in rows if row["space"] == "pixels"} == {"s7"}
    assert {"copy", "shifted"} <= {row["study_id"] for row in rows if row["space"] == "pixels"}
    with (out / "results.csv").open(newline="") as file:
        left = list(csv.DictReader(file))
    assert {row["study_id"] for row in left} == set(films) - {row["study_id"] for row in rows}
    assert all(row["report_text"] == "Clear, as before." for row in left)
    summary = json.loads((out / "near_copies.json").read_text())
    assert summary["excluded"] == excluded and "no proof of privacy" in summary["statement"]
    assert (out / "copy.png").is_file()  # its file stays: the synthesis can be resumed


def test_too_few_training_patients_and_no_results_are_refused(tiny_model: MedCoDi, tmp_path: Path) -> None:
    class Few(Films):
        def __len__(self) -> int:
            return 5

    out = synthesis(tmp_path / "out", {"a": np.asarray(Films()[0].contents["frontal"])})
    before = (out / "results.csv").read_bytes()
    with pytest.raises(DataError, match="frontal images of 5 patients"):
        exclude_near_copies(out, Few(), tiny_model)
    assert (out / "results.csv").read_bytes() == before and not (out / "near_copies.csv").exists()
    with pytest.raises(DataError, match="finish the synthesis first"):
        exclude_near_copies(tmp_path, Films(), tiny_model)
