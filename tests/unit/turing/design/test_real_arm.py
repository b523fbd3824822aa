"""Real studies from every source."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.config import from_dict
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.errors import DataError
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real
from tests.unit.turing.arms import real_table, tiny_study


def test_real_images_that_are_missing_are_listed_and_replaced(tmp_path: Path, generated_folder: Path) -> None:
    study = tiny_study(num_items=4)
    made = open_generated(str(generated_folder), study.sampling, 0)
    done = export_bundle(study, open_real(str(real_table(tmp_path / "r", 7, broken=3))), made, tmp_path / "out")
    assert done.num_items == 8 and all(line.endswith("missing file") for line in done.left_out)
    with pytest.raises(DataError, match=r"needs 5 real studies.*has 4 \(3 left out: s\d: missing file"):
        export_bundle(tiny_study(num_items=5), open_real(str(tmp_path / "r" / "table.csv")), made, tmp_path / "out2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "r"]  # nothing half-written


def test_a_prepared_dataset_is_a_real_arm(tmp_path: Path, generated_folder: Path) -> None:
    options = {"num_studies": 0, "test": 4}
    values = {"source": "phantom", "out": str(tmp_path / "physionet"), "image_size": 64, "options": options}
    prepare(from_dict(PrepareConfig, values))
    real = open_real(str(tmp_path / "physionet"))
    assert real.agreement == "physionet"
    assert [(case.name, case.patient, case.modalities) for case in real.cases] == [
        (study.study_id, study.patient_id, frozenset(study.contents)) for study in (case.load() for case in real.cases)
    ]
    study = tiny_study(num_items=4)
    made = open_generated(str(generated_folder), study.sampling, 0)
    assert export_bundle(study, real, made, tmp_path / "out", attested_by="A").num_items == 8
    with pytest.raises(DataError, match="no studies in split 'val'"):
        open_real(str(tmp_path / "physionet"), split="val")
