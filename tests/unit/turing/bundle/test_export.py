"""Bundles: contents, secrets, refusals with nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcodi.app.cli import main
from medcodi.config import from_dict
from medcodi.data.domain import Domain
from medcodi.data.sources.phantom import phantom_study
from medcodi.errors import DataError
from medcodi.model import tiny_model
from medcodi.turing.bundle.export import attest, export_bundle
from medcodi.turing.bundle.files import read_study_script
from medcodi.turing.bundle.key import read_key
from medcodi.turing.bundle.payloads import read_payload
from medcodi.turing.design.config import ReaderStudyConfig, SamplingConfig
from medcodi.turing.design.generated_arm import GeneratedByModel, open_generated
from medcodi.turing.design.real_arm import RealArm, open_real
from tests.unit.turing.arms import real_table, tiny_study


def read_study(folder: Path) -> dict:
    return read_study_script(folder / "study.js")


def test_the_bundle_holds_what_the_contract_says(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "custodian", "readers"]
    assert sorted(path.name for path in (bundle / "custodian").iterdir()) == ["README.txt", "key.json"]
    assert sorted(path.name for path in (bundle / "readers").iterdir()) == [
        "reader-01", "reader-01.zip", "reader-02", "reader-02.zip",
    ]  # fmt: skip
    study = read_study(bundle / "readers" / "reader-01")
    assert set(study) == {
        "format", "bundle_id", "reader", "title", "key_sha256", "study_sha256", "pages", "tasks", "trials", "windows", "pixel_spacing",
    }  # fmt: skip
    assert [task["id"] for task in study["tasks"]] == ["quality", "frontal", "pick", "fit", "find"]
    assert study["tasks"][1]["choices"] == ["real", "generated"] and study["tasks"][1]["confidence"]["max"] == 5
    assert study["tasks"][3]["scale"]["labels"] == {"1": "Certainly not", "5": "Certainly"}
    assert [panel["kind"] for panel in next(t for t in study["trials"] if t["task"] == "fit")["panels"]] == [
        "image",
        "text",
    ]
    assert [panel["slot"] for panel in next(t for t in study["trials"] if t["task"] == "pick")["panels"]] == ["A", "B"]


def test_nothing_of_the_answer_is_in_what_readers_get(bundle: Path) -> None:
    key = read_key(bundle / "custodian")
    secret = {item["case"] for item in key.items.values()} | {key.values["salt"]} | set(key.items)
    for folder in (bundle / "readers").iterdir():
        if folder.is_dir():
            text = (folder / "study.js").read_text() + " ".join(path.name for path in folder.rglob("*"))
            assert not [word for word in secret if word in text]
            assert (
                '"real"' not in json.dumps(read_study(folder)["trials"])
                and "arm" not in read_study(folder)["trials"][0]
            )


def test_payloads_hold_the_right_contents(bundle: Path) -> None:
    key = read_key(bundle / "custodian")
    for reader in ("reader-01", "reader-02"):
        for trial in key.trials[reader].values():
            for payload, told in trial["payloads"].items():
                if told["modality"] == "report" and told["origin"] == "real":
                    number = int(told["case"].rsplit("-", 1)[1])
                    text = read_payload(bundle / "readers" / reader / "payloads" / f"{payload}.js").text
                    assert text.split()[:3] == str(phantom_study(0, number, 32).report).split()[:3]


def test_a_model_generates_from_the_real_studies_and_its_autoencoder_serves(tiny_model, tmp_path: Path) -> None:
    study = tiny_study(modalities=["report", "frontal"], kind="coherence", generated=["frontal"], autoencoded=1)
    made = GeneratedByModel("tiny", tiny_model, SamplingConfig(num_inference_steps=2), seed=0)
    for name in ("a", "b"):
        done = export_bundle(
            study, open_real("phantom", num_phantoms=8, image_size=64), made, tmp_path / name, salt="s"
        )
    assert done.native_size == 30  # the autoencoder's 32, less the margin
    key = read_key(tmp_path / "a" / "custodian")
    assert key.values["provenance"]["generated"]["model"]["name"] == "tiny"
    shown = {
        item["arm"]: [(one["origin"], one["modality"], one["direction"]) for one in item["sides"][0]]
        for item in key.items.values()
    }
    assert shown["generated"] == [("real", "report", None), ("generated", "frontal", "lateral+report->frontal")]
    assert shown["autoencoded"] == [("real", "report", None), ("autoencoded", "frontal", None)]
    files = [sorted((tmp_path / name / "readers").rglob("*.js")) for name in ("a", "b")]
    assert [path.read_bytes() for path in files[0]] == [
        path.read_bytes() for path in files[1]
    ]  # the same salt, the same bytes


def test_an_interrupted_export_resumes_with_what_was_generated(tiny_model, tmp_path: Path) -> None:
    study = tiny_study(modalities=["report", "frontal"], kind="coherence", generated=["frontal"], num_items=6)
    sampling = SamplingConfig(num_inference_steps=2, batch_size=1)
    arm, whole = GeneratedByModel("tiny", tiny_model, sampling, seed=0), tmp_path / "whole"

    def real() -> RealArm:
        return open_real("phantom", num_phantoms=12, image_size=64)

    export_bundle(study, real(), arm, whole, salt="s")

    def interrupt(step: str, done: int, total: int) -> None:
        if step == "generating" and done == 2:
            raise KeyboardInterrupt

    # Interrupted: nothing at its place, two batches in the hidden folder. One of them is damaged meanwhile.
    with pytest.raises(KeyboardInterrupt):
        export_bundle(study, real(), arm, tmp_path / "a", salt="s", on_step=interrupt)
    assert not (tmp_path / "a").exists()
    stored = sorted((tmp_path / ".a.partial").glob("samples-*/samples.npz"))
    assert len(stored) == 2 and not list((tmp_path / ".a.partial/content").iterdir())
    stored[0].write_bytes(stored[0].read_bytes()[:-1])
    before = stored[1].stat().st_mtime_ns

    # Resumed: the whole batch is used, and the bundle has the same bytes.
    seen: list[int] = []

    def look(step: str, done: int, total: int) -> None:
        if step == "generating" and done == total:
            seen.append(stored[1].stat().st_mtime_ns)

    export_bundle(study, real(), arm, tmp_path / "a", salt="s", on_step=look)
    assert seen == [before] and not (tmp_path / ".a.partial").exists()
    names = sorted(path.relative_to(whole) for path in (whole / "readers").rglob("*.js"))
    assert names and all((whole / name).read_bytes() == (tmp_path / "a" / name).read_bytes() for name in names)


@pytest.mark.parametrize("by_path", [True, False])
def test_data_under_a_use_agreement_asks_for_an_attestation(
    by_path: bool, tmp_path: Path, generated_folder: Path
) -> None:
    folder = tmp_path / ("mimic-cxr-jpg" if by_path else "r")
    table = real_table(folder, 4, name="table" if by_path else "physionet_export")
    study = tiny_study()
    made = open_generated(str(generated_folder), study.sampling, 0)
    with pytest.raises(DataError, match="under a use agreement.*--attest"):
        export_bundle(study, open_real(str(table)), made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_bundle(study, open_real(str(table)), made, tmp_path / "out", attested_by="A. Reader, Clinic")
    attestation = json.loads((tmp_path / "out" / "bundle.json").read_text())["attestation"]
    assert attestation["attested_by"] == "A. Reader, Clinic" and attestation["source"] in ("mimic", "physionet")
    assert read_key(tmp_path / "out" / "custodian").values["provenance"]["attestation"] == attestation


def test_a_model_trained_under_a_use_agreement_asks_for_an_attestation() -> None:
    model = tiny_model(seed=0)
    model.provenance = Domain(origin="real", agreement="mimic-cxr").after({})
    made = GeneratedByModel("ours", model, tiny_study().sampling, 0)
    real = open_real("phantom", num_phantoms=2)
    with pytest.raises(DataError, match="the model 'ours' was trained on MIMIC-CXR, .*use agreement.*--attest"):
        attest(real, made, None)
    attestation = attest(real, made, "A. Reader, Clinic")
    assert attestation is not None and attestation["source"] == "mimic-cxr"


def test_autoencoded_items_need_a_model(tmp_path: Path, generated_folder: Path) -> None:
    study = tiny_study(autoencoded=1)
    with pytest.raises(DataError, match="need a model, and none is given"):
        export_bundle(
            study,
            open_real("phantom", num_phantoms=4),
            open_generated(str(generated_folder), study.sampling, 0),
            tmp_path / "o",
        )


def test_an_image_below_the_native_size_is_refused(tmp_path: Path, generated_folder: Path) -> None:
    task = {"id": "t", "kind": "rating", "modalities": ["frontal"], "num_items": 1}
    values = {
        "name": "s",
        "title": "t",
        "tasks": [task],
        "readers": 1,
        "image_size": 128,
        "blinding": {"native_size": 120},
    }
    study = from_dict(ReaderStudyConfig, values)
    with pytest.raises(DataError, match="native_size is 120"):
        export_bundle(
            study,
            open_real("phantom", num_phantoms=2),
            open_generated(str(generated_folder), study.sampling, 0),
            tmp_path / "o",
        )


def test_the_command_line_exports_and_refuses(
    tmp_path: Path, generated_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: s\ntitle: t\nimage_size: 64\ntasks: [{id: t, kind: rating, modalities: [frontal], num_items: 2}]\n"
    )
    table = real_table(tmp_path / "r", 4)
    arguments = ["turing", "export", "--study", str(study), "--real", str(table), "--generated", str(generated_folder)]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--out", str(tmp_path / "out"), "--readers", "2"])
    assert left.value.code == 0
    assert (
        tmp_path / "out" / "readers" / "reader-02.zip"
    ).is_file() and "4 items for 2 readers" in capfd.readouterr().out
    for wrong, said in (
        (["--real", str(tmp_path / "none")], "no real studies"),
        (["--out", str(tmp_path / "out")], "is not empty"),
    ):
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--out", str(tmp_path / "new"), *wrong])
        assert left.value.code == 2 and said in capfd.readouterr().err
    assert not (tmp_path / "new").exists()
