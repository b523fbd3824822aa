"""Prompts outside the training domain: the shipped model warns of a film, of unknown words and findings, and says so in provenance."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medcodi
from medcodi.data.domain import Domain
from medcodi.data.images import save_png8
from medcodi.data.sources.phantom import phantom_report
from medcodi.generation.domain import outside_domain
from medcodi.model import MedCoDi, demo_checkpoint, tiny_model
from medcodi.model.files import read_index
from medcodi.model.identity import index_sha256
from medcodi.study import Direction

IMAGE = np.random.default_rng(0).random((40, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def demo() -> MedCoDi:
    return MedCoDi.from_pretrained(demo_checkpoint(), lazy=True)


def of_demo(demo: MedCoDi, **prompts: Any) -> list[str]:
    targets = [name for name in demo.config.modalities if name not in prompts]
    return list(outside_domain(demo, Direction(tuple(prompts), tuple(targets)), prompts))


def test_the_shipped_model_knows_its_domain_and_is_the_same_model(demo: MedCoDi) -> None:
    domain = Domain.of(demo.provenance)
    assert domain is not None and domain.origin == "phantom" and not domain.agreement
    _, index = read_index(demo_checkpoint())
    assert index_sha256({**index, "provenance": {}}) == demo.identity()


def test_films_and_images_of_unknown_origin(demo: MedCoDi, tmp_path: Path) -> None:
    save_png8(IMAGE, tmp_path / "film.png")
    save_png8(IMAGE, tmp_path / "phantom.png", origin="phantom")
    assert of_demo(demo, frontal=tmp_path / "phantom.png") == []
    (notice,) = of_demo(demo, frontal=tmp_path / "film.png")
    assert "unknown origin" in notice and "no reading of this film" in notice


def test_a_dicom_is_a_film(demo: MedCoDi, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from medcodi.data.dicom.writing import write_dicom

    signature = {"direction": "", "model": {"name": "x", "sha256": ""}, "prompts": {}, "seeds": [0], "settings": {}}
    write_dicom(IMAGE, tmp_path / "film.dcm", "frontal", signature)
    assert of_demo(demo, frontal=tmp_path / "film.dcm") == []  # generated
    film = pydicom.dcmread(tmp_path / "film.dcm")
    film.SyntheticData = "NO"
    film.save_as(tmp_path / "film.dcm")
    (notice,) = of_demo(demo, frontal=tmp_path / "film.dcm")
    assert notice.startswith("the frontal is a real film, and this model was trained on computed phantoms alone")


def test_words_and_findings(demo: MedCoDi) -> None:
    for text in ("Large left pleural effusion.", *(phantom_report(0, index) for index in range(20))):
        assert of_demo(demo, report=text) == []
    (words,) = of_demo(demo, report="Derrame pleural izquierdo de gran tamaño.")
    assert "most words of the report" in words and "Derrame" in words
    (findings,) = of_demo(demo, report="Large left pleural effusion. There is a fracture of the left lower lobe.")
    assert "shows Fracture" in findings


def test_a_warning_and_provenance(tmp_path: Path) -> None:
    model = tiny_model(seed=0)
    domain = Domain(origin="phantom", modalities=("frontal", "report"), findings=("Edema",))
    model.provenance = domain.after({})
    save_png8(IMAGE, tmp_path / "film.png")
    with pytest.warns(medcodi.DomainWarning) as caught:
        out = medcodi.generate({"frontal": tmp_path / "film.png"}, ["lateral"], model=model, num_inference_steps=1)
    notices = out.provenance["outside_domain"]
    assert [str(warning.message) for warning in caught] == notices and len(notices) == 2
    assert notices[0].startswith("no study that this model was trained on has a lateral")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = medcodi.generate("Edema.", ["frontal"], model=model, num_inference_steps=1)
    assert "outside_domain" not in out.provenance
