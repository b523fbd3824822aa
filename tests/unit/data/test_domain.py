"""The domain of training: of phantoms, of prepared folders, joined over stages; and where an image prompt comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.data.dataset import open_dataset
from medcodi.data.domain import (
    MIXED,
    PHANTOM,
    REAL,
    SYNTHETIC,
    UNKNOWN,
    Domain,
    attested,
    domain_of_data,
    origin_of_image,
)
from medcodi.data.images import save_png8, save_png16
from medcodi.data.loading import DataConfig
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.errors import DataError

IMAGE = np.random.default_rng(0).random((40, 40)).astype(np.float32)


def prepared(tmp_path: Path, header: str, *rows: str, out: str = "data") -> Domain:
    save_png8(IMAGE, tmp_path / "a.png")
    (tmp_path / "table.csv").write_text("\n".join([header, *rows]))
    folder = str(tmp_path / out)
    prepare(PrepareConfig(source="csv", path=str(tmp_path / "table.csv"), out=folder, image_size=32, val=0.0, test=0.0))
    return domain_of_data(DataConfig(path=folder, image_size=32), open_dataset(folder, "train"))


def test_of_phantoms() -> None:
    config = DataConfig(source="phantom", num_studies=2, image_size=32)
    domain = domain_of_data(config, config.build())
    assert domain.origin == PHANTOM and domain.modalities == ("frontal", "lateral", "report")
    assert "Pneumothorax" in domain.findings and "Fracture" not in domain.findings and not domain.agreement


def test_of_tables(tmp_path: Path) -> None:
    header = "study_id,patient_id,frontal,Cardiomegaly,Edema"
    real = prepared(tmp_path, header, "s1,p1,a.png,1,0", "s2,p2,a.png,,-1")
    assert (real.origin, real.modalities, real.findings) == (REAL, ("frontal",), ("Cardiomegaly",))
    assert prepared(tmp_path, header, "phantom-0-0000001,p1,a.png,1,0", out="sample").origin == PHANTOM
    assert prepared(tmp_path, header, "study001,phantom-001,a.png,1,0", out="sample again").origin == PHANTOM
    results = "study_id,patient_id,frontal,direction,seed,model_sha256"
    assert prepared(tmp_path, results, "s1,p1,a.png,->frontal,0,00", out="synthetic").origin == SYNTHETIC
    assert prepared(tmp_path, header, "s1,p1,a.png,1,0", out="chexpert-small").agreement == "chexpert"


def test_stages_join_what_they_were_trained_on() -> None:
    phantom = Domain(origin=PHANTOM, sources=("a",), modalities=("frontal", "report"), findings=("Edema",))
    real = Domain(
        origin=REAL, sources=("b",), modalities=("lateral",), findings=("Cardiomegaly",), agreement="mimic-cxr"
    )
    provenance = phantom.after({"training": {}})
    assert Domain.of(provenance) == phantom and Domain.of(phantom.after(provenance)) == phantom
    both = Domain.of(real.after({**provenance, "training": {"align": {}}}))
    assert both == Domain(
        origin=MIXED,
        sources=("a", "b"),
        modalities=("frontal", "lateral", "report"),
        findings=("Cardiomegaly", "Edema"),
        agreement="mimic-cxr",
    )
    older = Domain.of(real.after({"training": {"align": {}}}))  # of a model that does not know its own
    assert older is not None and older.origin == MIXED and Domain.of({"training": {"align": {}}}) is None


def test_where_an_image_comes_from(tmp_path: Path) -> None:
    save_png8(IMAGE, tmp_path / "plain.png")
    save_png16(IMAGE, tmp_path / "phantom.png", origin=PHANTOM)
    Image.open(tmp_path / "plain.png").save(tmp_path / "film.jpg")
    for value, origin in (
        (tmp_path / "plain.png", UNKNOWN),
        (tmp_path / "film.jpg", UNKNOWN),
        (str(tmp_path / "phantom.png"), PHANTOM),
        (Image.open(tmp_path / "phantom.png"), PHANTOM),
        (IMAGE, UNKNOWN),
    ):
        assert origin_of_image(value) == origin


def test_a_dicom_is_real_unless_it_says_otherwise(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from medcodi.data.dicom.writing import write_dicom

    model = {"name": "tiny", "sha256": "0" * 64}
    signature = {"direction": "->frontal", "model": model, "prompts": {}, "seeds": [0], "settings": {}}
    write_dicom(IMAGE, tmp_path / "ours.dcm", "frontal", signature)
    assert origin_of_image(tmp_path / "ours.dcm") == SYNTHETIC
    film = pydicom.dcmread(tmp_path / "ours.dcm")
    del film.SyntheticData
    film.save_as(tmp_path / "film.dcm")
    assert origin_of_image(tmp_path / "film.dcm") == REAL


def test_an_agreement_needs_somebody_who_attests() -> None:
    statement = {"failed": "the model was trained on", "statement": "Everyone may."}
    with pytest.raises(DataError, match="trained on MIMIC, which is shared under a use agreement.*--attest"):
        attested("mimic", " ", **statement)
    assert attested("", None, **statement) is None
    assert attested("mimic", "A. B.", **statement) == {
        "source": "mimic",
        "attested_by": "A. B.",
        "statement": "Everyone may.",
    }
