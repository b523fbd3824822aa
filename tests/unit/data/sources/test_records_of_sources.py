"""Records from tables and DICOM tags: columns become fields, invalid values are listed, ages are capped."""

import csv
from pathlib import Path

import numpy as np
import pytest

from medcodi.config import load
from medcodi.data.images import save_png8
from medcodi.data.preparation.prepare import PrepareConfig
from medcodi.data.sources import SOURCES
from medcodi.data.sources.phantom import phantom_study
from medcodi.errors import ConfigError, DataError
from medcodi.study import CHEXPERT_LABELS

HEADER = ["study", "patient", "frontal", "PatientAge", "Sex", "CRP", "TNT"]
ROWS = [
    ["s1", "p1", "a.png", "045Y", "f", "12.5 mg/L", "14"],
    ["s2", "p2", "a.png", "97", "M", "", "nan"],
    ["s3", "p3", "a.png", "45Z", "X", "-3", "20"],
]
COLUMNS = {"record.age": "PatientAge", "record.sex": "Sex", "record.crp": "CRP"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    save_png8(np.random.default_rng(0).random((32, 32)), tmp_path / "a.png")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *ROWS])
    return tmp_path / "t.csv"


def read(table: Path, **options) -> list:
    studies = SOURCES["csv"].announce("csv", {"path": str(table), **options})
    return [study.load(32) for study in studies]


def test_columns_become_fields_in_their_spellings(table):
    first, second, _ = read(table, columns=COLUMNS)
    assert first.study.record == {"age": 45.0, "sex": "F", "crp": 12.5}
    assert second.study.record == {"age": 90.0, "sex": "M"}  # above 89, as de-identified data have it


def test_an_invalid_value_is_left_out_alone_and_listed(table):
    third = read(table, columns=COLUMNS)[2]
    assert third.study is not None and third.study.record is None
    listed = {left.file: (left.reason, left.detail) for left in third.spare}
    assert set(listed) == {"s3:record.age", "s3:record.sex", "s3:record.crp"}
    assert all(reason == "record: invalid value" for reason, _ in listed.values())
    assert "'45Z'" in listed["s3:record.age"][1] and "outside its plausible range" in listed["s3:record.crp"][1]


def test_further_fields_have_their_own_ranges(table):
    fields = {"troponin": {"low": 0.1, "high": 50000, "unit": "ng/L", "scale": "log"}}
    first, second, _ = read(table, columns={"record.troponin": "TNT"}, fields=fields)
    assert first.study.record == {"troponin": 14.0} and second.study.record is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"record.agee": "PatientAge"}, "did you mean 'record.age'"),
        ({"record.age": "PatientAgee"}, "did you mean 'PatientAge'"),
        ({"record.troponin": "TNT"}, "unknown meaning of a column 'record.troponin'"),
    ],
)
def test_an_unknown_field_or_column_is_refused(table, columns, message):
    with pytest.raises((DataError, ConfigError), match=message):
        read(table, columns=columns)


def test_without_such_columns_there_is_no_record(table):
    assert all(loaded.study.record is None for loaded in read(table))


def test_dicom_tags_fill_a_record_where_asked(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from medcodi.data.dicom.writing import write_dicom

    model = {"name": "tiny", "sha256": "0" * 64, "trained_stages": []}
    provenance = {"direction": "->frontal", "model": model, "prompts": {}, "seeds": [0], "settings": {}}
    file = tmp_path / "in" / "a.dcm"
    file.parent.mkdir()
    write_dicom(phantom_study(0, 0, 32).images["frontal"], file, "frontal", provenance)
    dataset = pydicom.dcmread(file)
    dataset.PatientID, dataset.PatientAge, dataset.PatientSex = "p1", "093Y", "F"
    dataset.PatientSize, dataset.PatientWeight = "1.70", "80"
    dataset.save_as(file)
    options = {"path": str(file.parent)}
    (study,) = SOURCES["dicom"].announce("dicom", {**options, "record": True})
    record = study.load(32).study.record
    assert record["age"] == 90.0 and record["sex"] == "F" and record["bmi"] == 27.7
    (study,) = SOURCES["dicom"].announce("dicom", options)
    assert study.load(32).study.record is None
    # A size that is no number refuses neither the file nor the rest of the record.
    dataset.PatientSize = "0"
    dataset.save_as(file)
    (study,) = SOURCES["dicom"].announce("dicom", {**options, "record": True})
    assert "bmi" not in study.load(32).study.record


# ---- published tables, by the shipped recipes ------------------------------------------------------------------------
NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient {},View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
NIH_ROWS = [
    "00000001_000.png,Cardiomegaly|Effusion,0,1,058Y,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,No Finding,1,1,59,M,AP,2682,2749,0.143,0.143",
    "00000002_000.png,Hernia|Mass,0,2,411,F,PA,2682,2749,0.143,0.143",
]
CHEXPERT_ROWS = [
    "view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
    "view2_lateral.jpg,Female,68,Lateral,,1.0,,,,,,,,,0.0,,,,1.0",
]


def prepared_by(recipe: str, folder: Path, **options) -> tuple[list, list]:
    """Studies and left-out files of a shipped recipe whose files are in ``folder``."""
    config = load(PrepareConfig, f"data/{recipe}")
    files = {key: str(folder / config.options[key]) for key in ("path", "root")}
    options = {**config.options, **files, **options}
    loaded = [study.load(32) for study in SOURCES[config.source].announce(config.source, options)]
    return [one.study for one in loaded], [left for one in loaded for left in one.spare]


def write_png(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_png8(np.random.default_rng(0).random((32, 32)), file)


@pytest.mark.parametrize(("sex", "end"), [("Sex", ""), ("Gender", ",")])
def test_the_recipe_of_nih_chestxray14_reads_both_versions_of_its_table(tmp_path, sex, end):
    for row in NIH_ROWS:
        write_png(tmp_path / "nih/images" / row.partition(",")[0])
    lines = [NIH.format(sex), *NIH_ROWS]
    (tmp_path / "nih/Data_Entry_2017_v2020.csv").write_text("\n".join(line + end for line in lines))
    studies, left_out = prepared_by("nih-chestxray14", tmp_path)
    assert [study.record for study in studies] == [
        {"age": 58.0, "sex": "M", "view": "PA"},
        {"age": 59.0, "sex": "M", "view": "AP"},
        {"sex": "F", "view": "PA"},
    ]
    assert [left.reason for left in left_out] == ["record: invalid value"] and "411" in left_out[0].detail
    first, second, third = (study.labels for study in studies)
    assert first["Cardiomegaly"] == first["Pleural Effusion"] == 1 and first["No Finding"] == first["Edema"] == 0
    assert "Fracture" not in first and second["No Finding"] == 1 and third["Lung Lesion"] == 1
    assert [study.patient_id for study in studies] == ["1", "1", "2"]


def test_the_recipe_of_chexpert_finds_patient_and_study_in_the_path(tmp_path):
    folder = tmp_path / "chexpert/CheXpert-v1.0-small"
    lines = ["Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT_LABELS)]
    for row in CHEXPERT_ROWS:
        path = "CheXpert-v1.0-small/train/patient00001/study2/" + row.partition(",")[0]
        write_png(tmp_path / "chexpert" / path)
        lines.append(path + row[row.index(",") :])
    (folder / "train.csv").write_text("\n".join(lines))
    (study,), left_out = prepared_by("chexpert", tmp_path)
    assert (study.study_id, study.patient_id) == ("patient00001-study2", "patient00001") and not left_out
    assert set(study.images) == {"frontal", "lateral"} and study.record == {"age": 68.0, "sex": "F", "view": "AP"}
    assert study.labels == {"No Finding": 1.0, "Pneumothorax": 0.0, "Support Devices": 1.0}
    with pytest.raises(DataError, match="line 2: no image path matches study_pattern"):
        prepared_by("chexpert", tmp_path, study_pattern="(visit.)")


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("Edemaa", {}, "label 'Edemaa'.*did you mean 'Edema'"),
        ("Hernia", {"label_names": {"Hernia": "Herniaa"}}, "unknown label 'Herniaa'"),
    ],
)
def test_unknown_labels_are_refused_by_name(tmp_path, cell, options, message):
    (tmp_path / "t.csv").write_text(f"study,patient,report,found\ns,p,Clear lungs.,{cell}\n")
    with pytest.raises((DataError, ConfigError), match=message):
        read(tmp_path / "t.csv", columns={"labels": "found"}, **options)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("study,patient,report,Age,Age\ns,p,Clear lungs.,3,4\n")
    with pytest.raises(DataError, match="has the column 'Age' twice"):
        read(tmp_path / "t.csv", columns={"record.age": "Age"})
