"""Records from tables and DICOM tags: columns become fields, invalid values are listed, ages are capped."""

import csv
from pathlib import Path

import numpy as np
import pytest

from medcodi.data.images import save_png8
from medcodi.data.sources import SOURCES
from medcodi.data.sources.phantom import phantom_study
from medcodi.errors import ConfigError, DataError

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
