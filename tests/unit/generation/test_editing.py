"""Editing a study with the real classes at tiny size: what stays, what changes, what is refused; the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import medcodi
from medcodi.app.cli import REFUSED
from medcodi.data.images import save_png8
from medcodi.errors import DataError, PromptError
from medcodi.generation.editing import edit, edit_batch
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction, Study
from tests.unit.model.test_generation_config import run

REPORT = "FINDINGS: Small right pleural effusion. Heart size is normal.\nIMPRESSION: Small right pleural effusion."
FILMS = {
    name: np.random.default_rng(place).random((32, 32), dtype=np.float32)
    for place, name in enumerate(("frontal", "lateral"))
}
STUDY = {**FILMS, "report": REPORT}


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    """A model whose denoisers follow their prompts: outputs that start at zero are not."""
    model = tiny_model(seed=0).eval()
    for parameter in model.denoisers.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


def round_trip(model: MedCoDi, film: str) -> np.ndarray:
    """A film through the autoencoder."""
    with torch.no_grad():
        decoded = model.decode(film, model.latent(film, torch.from_numpy(FILMS[film])[None, None]))
    return decoded[0, 0].numpy()  # type: ignore[union-attr,index]


def test_films_and_report_change_together_and_what_is_not_named_stays(model: MedCoDi) -> None:
    study = Study(study_id="s", patient_id="p", contents=STUDY)
    out = medcodi.edit(study, "Large left pneumothorax.", model=model, seed=4)
    assert out.direction == Direction((), ("frontal", "lateral", "report"))
    assert out.report == (
        "FINDINGS: Large left pneumothorax. Small right pleural effusion. Heart size is normal.\n"
        "IMPRESSION: Large left pneumothorax. Small right pleural effusion."
    )
    for film in FILMS:
        assert np.abs(out.images[film] - round_trip(model, film)).max() > 1e-3
    again = edit(STUDY, "Large left pneumothorax.", model=model, seed=4)
    np.testing.assert_array_equal(out.images["lateral"], again.images["lateral"])
    # It says what it was made from, and that it may show the patient.
    assert (
        set(out.provenance["prompts"]) == {"frontal", "lateral", "report"}
        and "Not de-identified" in out.provenance["notice"]
    )
    assert out.provenance["edit"]["strength"] == 0.5 and "pneumothorax" not in json.dumps(out.provenance)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_same_report_changes_nothing_but_the_autoencoders_round_trip(model: MedCoDi, strength: float) -> None:
    out = edit(STUDY, REPORT, model=model, strength=strength, replace=True)
    for film in FILMS:
        np.testing.assert_array_equal(out.images[film], round_trip(model, film))
    assert out.report == REPORT


def test_one_film_of_a_study_and_a_study_without_a_report(model: MedCoDi) -> None:
    part = edit(STUDY, "Large heart.", ["lateral"], model=model)
    assert part.direction == Direction(("frontal", "report"), ("lateral",)) and set(part.images) == {"lateral"}
    # Without a report, the model's own report of the films says what stays.
    own = medcodi.generate({"frontal": FILMS["frontal"]}, ["report"], model=model).report
    film = {"frontal": FILMS["frontal"]}
    unread = edit(film, "Cardiomegaly.", model=model)
    known = edit({**film, "report": own}, "Cardiomegaly.", ["frontal"], model=model)
    np.testing.assert_array_equal(unread.images["frontal"], known.images["frontal"])


def test_a_batch_gives_what_each_study_gives_alone(model: MedCoDi) -> None:
    new = [{"report": "Large left effusion."}, {"report": "Clear lungs."}]
    config = GenerationConfig()
    together = edit_batch(model, [STUDY, STUDY], list(FILMS), [{"report": REPORT}] * 2, new, [1, 2], config, 0.8)
    alone = edit_batch(model, [STUDY], list(FILMS), [{"report": REPORT}], new[1:], [2], config, 0.8)
    for film in FILMS:
        np.testing.assert_allclose(together[1][film], alone[0][film], atol=5e-4)
        assert np.abs(together[0][film] - together[1][film]).max() > 1e-2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strength": 0.0}, "strength is 0.0"),
        ({"strength": 1.5}, "at most 1"),
        ({"study": {"frontal": FILMS["frontal"]}, "targets": ["lateral"]}, "edit of lateral, which the study lacks"),
        ({"study": {}}, "no targets"),
        ({"targets": ["latral"]}, "did you mean 'lateral'"),
        ({"report": "The patient is well."}, "nothing to change"),
        ({"seed": -1}, "seed is -1"),
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
    ],
)
def test_what_cannot_be_edited_is_refused_before_a_model_is_needed(values: dict, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        edit(**{"study": STUDY, "report": "Cardiomegaly.", "model": "nowhere", **values})
    with pytest.raises(DataError):
        edit(STUDY, " ", model="nowhere")


def test_the_command(model: MedCoDi, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(model.save_pretrained(tmp_path / "model"))
    save_png8(FILMS["frontal"], tmp_path / "film.png")
    (tmp_path / "old.txt").write_text(REPORT)
    given = (
        "edit",
        "--model",
        folder,
        "--study",
        f"frontal={tmp_path}/film.png",
        "--study",
        f"report=@{tmp_path}/old.txt",
    )
    assert run(*given, "--report", "Cardiomegaly.", "--out", str(tmp_path / "out"), "--format", "dicom") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "frontal.dcm",
        "provenance.json",
        "report.txt",
    ]
    assert "Cardiomegaly. Small right pleural effusion." in (tmp_path / "out/report.txt").read_text()
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.dcmread(tmp_path / "out/frontal.dcm")
    assert "Edited" in header.PatientComments and "not de-identified" in header.DerivationDescription
    capsys.readouterr()
    assert run(*given, "--out", str(tmp_path / "none")) == REFUSED
    assert "nothing to change" in capsys.readouterr().err
    assert run("edit", "--report", "Edema.", "--out", str(tmp_path / "none")) == REFUSED
    assert "no study is given" in capsys.readouterr().err and not (tmp_path / "none").exists()
