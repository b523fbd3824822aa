"""Bundles: what lies where, that nothing tells payloads apart, and what is refused with nothing left behind."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.app.cli import main
from medcodi.config import from_dict
from medcodi.data.images import save_png8
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sources.phantom import phantom_study
from medcodi.errors import DataError
from medcodi.turing.bundle.canonical import canonical_json
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.bundle.files import read_payload, read_study_script
from medcodi.turing.bundle.key import read_key
from medcodi.turing.design.config import ReaderStudyConfig, SamplingConfig
from medcodi.turing.design.generated_arm import GeneratedByModel, open_generated
from medcodi.turing.design.real_arm import open_real


def read_study(folder: Path) -> dict:
    return read_study_script(folder / "study.js")


def tiny_study(**task: object) -> ReaderStudyConfig:
    values = {"id": "t", "kind": "rating", "modalities": ["frontal"], "num_items": 2, **task}
    return from_dict(
        ReaderStudyConfig,
        {"name": "s", "title": "t", "tasks": [values], "readers": 1, "image_size": 64, "blinding": {"crop": "none"}},
    )


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


def test_files_have_one_time_one_size_and_stored_entries_in_order(bundle: Path) -> None:
    for folder in (path for path in (bundle / "readers").iterdir() if path.is_dir()):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.stat().st_mtime for path in files} == {946684800.0}
        kinds = {path: read_payload(path).fields["kind"] for path in (folder / "payloads").iterdir()}
        for kind in ("image", "text"):
            assert len({path.stat().st_size for path, own in kinds.items() if own == kind}) == 1
        with zipfile.ZipFile(folder.with_name(folder.name + ".zip")) as archive:
            entries = archive.infolist()
            assert {entry.date_time for entry in entries} == {(2000, 1, 1, 0, 0, 0)}
            assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
            assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
            assert len(entries) == len(files)
            study = f"{folder.name}/study.js"
            assert archive.read(study) == (folder / "study.js").read_bytes()


def test_the_key_is_proved_by_its_salted_hash(bundle: Path) -> None:
    key = read_key(bundle / "custodian")
    values = json.loads((bundle / "custodian" / "key.json").read_text())
    salt = values.pop("salt")
    right = hashlib.sha256((salt + canonical_json(values)).encode()).hexdigest()
    facts = json.loads((bundle / "bundle.json").read_text())
    assert key.sha256 == right == facts["key_sha256"] == read_study(bundle / "readers" / "reader-02")["key_sha256"]
    values["trials"]["reader-01"] = {}
    assert hashlib.sha256((salt + canonical_json(values)).encode()).hexdigest() != right


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


def test_folders_as_generate_writes_them_are_read_and_paired(tmp_path: Path) -> None:
    for index in (20000000, 20000001, 20000002):
        for sample in ("0", "1"):
            folder = tmp_path / "made" / f"phantom-0-{index:07d}" / sample
            folder.mkdir(parents=True)
            save_png8(phantom_study(1, index, 64).images["frontal"], folder / "frontal.png")
    study = tiny_study(num_items=3)
    made = open_generated(str(tmp_path / "made"), study.sampling, 0)
    export_bundle(study, open_real("phantom", num_phantoms=6, image_size=64), made, tmp_path / "out")
    arms: dict[str, set[str]] = {"real": set(), "generated": set()}
    for item in read_key(tmp_path / "out" / "custodian").items.values():
        arms[item["arm"]].add(item["case"])
    assert arms["real"] == arms["generated"] and len(arms["real"]) == 3


def real_table(folder: Path, num: int, broken: int = 0, name: str = "table") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["study_id,patient_id,image,view"]
    for index in range(num):
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (70, 90), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
        rows.append(f"s{index},p{index},{index}.png,PA")
    for index in range(broken):
        (folder / f"{index}.png").unlink()
    (folder / f"{name}.csv").write_text("\n".join(rows))
    return folder / f"{name}.csv"


def test_real_images_that_are_missing_are_listed_and_replaced(tmp_path: Path, generated_folder: Path) -> None:
    study = tiny_study(num_items=4)
    made = open_generated(str(generated_folder), study.sampling, 0)
    done = export_bundle(study, open_real(str(real_table(tmp_path / "r", 7, broken=3))), made, tmp_path / "out")
    assert done.num_items == 8 and all(line.endswith("missing file") for line in done.left_out)
    with pytest.raises(DataError, match=r"needs 5 real studies.*has 4 \(3 left out: s\d: missing file"):
        export_bundle(tiny_study(num_items=5), open_real(str(tmp_path / "r" / "table.csv")), made, tmp_path / "out2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "r"]  # nothing half-written


def test_a_generated_image_that_is_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("study_id,frontal\nx,x.png\n")
    with pytest.raises(DataError, match=r"line 2: there is no frontal at 'x.png'"):
        open_generated(str(tmp_path), SamplingConfig(), 0)


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


def test_generated_studies_without_ids_or_twice_are_refused(tmp_path: Path) -> None:
    for rows, said in (
        ("name\nx\n", "has name. Expected columns study_id; "),
        ("study_id,report\nx,a\nx,b\n", "line 3: study_id 'x'"),
    ):
        (tmp_path / "results.csv").write_text(rows)
        with pytest.raises(DataError, match=said):
            open_generated(str(tmp_path), SamplingConfig(), 0)
    shutil.rmtree(tmp_path)
    os.mkdir(tmp_path)  # noqa: PTH102
    with pytest.raises(DataError, match="holds no generated studies"):
        open_generated(str(tmp_path), SamplingConfig(), 0)


def test_the_manifest_may_name_text_files(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("Clear lungs.")
    with (tmp_path / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["study_id", "report"], ["a", "r.txt"], ["b", "No effusion."]])
    made = open_generated(str(tmp_path), SamplingConfig(), 0)
    study = tiny_study(modalities=["report"])
    done = export_bundle(study, open_real("phantom", num_phantoms=4, image_size=32), made, tmp_path / "out")
    assert done.num_images == 0 and done.native_size is None


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
