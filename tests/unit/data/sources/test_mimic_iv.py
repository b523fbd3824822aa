"""Records of MIMIC-CXR from tables of the form of MIMIC-IV: the join, the window, de-identified ages, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.data.sources import SOURCES
from medcodi.data.sources import mimic_iv as module
from medcodi.data.sources.mimic_iv import study_time
from medcodi.errors import ConfigError, DataError
from tests.unit.data.mimic_iv_tables import with_times, write_mimic_iv
from tests.unit.data.mimic_tree import small_tree
from tests.unit.data.sources.test_mimic import run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("mimic")
    return with_times(small_tree(root / "cxr")).write(), write_mimic_iv(root / "iv")


def joined(folders: tuple[Path, Path], source: str = "mimic-cxr-jpg", **options) -> dict:
    path, iv = folders
    studies = SOURCES[source].announce(source, {"path": str(path), "mimic_iv": str(iv), **options})
    return {study.study_id: study for study in studies}


def test_the_first_values_in_the_window_with_age_and_sex(folders):
    study = joined(folders, mimic_iv_ed=str(folders[1]))["s50000001"]
    record, invalid = study.read_values()
    assert record == {
        "age": 63.0,  # 61 in 2078
        "sex": "F",
        "view": "PA",
        "leucocytes": 14.2,
        "temperature": 37.0,  # 98.6 degrees Fahrenheit at 7, before those of the ICU
        "oxygen_saturation": 93.0,
        "heart_rate": 96.0,
    }
    assert (
        study.metadata["admission"] == "20000001" and study.values_from == "first values within 24 h before the study"
    )
    # A value of another unit is listed; one without a number says nothing.
    assert [left.file for left in invalid] == ["s50000001:record.haemoglobin"] and "131 g/L" in invalid[0].detail


def test_without_the_emergency_department_and_with_a_short_window(folders):
    record, _ = joined(folders)["s50000001"].read_values()
    assert record["temperature"] == 38.5 and record["heart_rate"] == 104.0 and "oxygen_saturation" not in record
    record, _ = joined(folders, record_hours=6.5)["s50000001"].read_values()
    assert record["leucocytes"] == 12.0
    record, _ = joined(folders, record_hours=2)["s50000001"].read_values()
    assert set(record) == {"age", "sex", "view"}


def test_ages_above_89_and_patients_without_a_row(folders):
    studies = joined(folders)
    assert studies["s50000003"].read_values()[0] == {"age": 90.0, "sex": "M", "view": "AP"}
    # Top-coded in 2085, five years after the study: the age at the study is not known.
    assert studies["s50000004"].read_values()[0] == {"sex": "M", "view": "AP"}
    (missing,) = studies["s50000005"].spare
    assert missing.reason == "record: patient not in MIMIC-IV" and studies["s50000005"].read_values()[0] == {
        "view": "PA"
    }


def test_further_fields_come_from_items_and_from_the_admission(folders):
    fields = {
        "creatinine": {"low": 0.05, "high": 30, "unit": "mg/dL", "scale": "log"},
        "insurance": {"values": ["Medicare", "Other"]},
    }
    record, _ = joined(folders, fields=fields, items={"creatinine": [50912]})["s50000001"].read_values()
    assert record["creatinine"] == 0.9 and record["insurance"] == "Medicare"


def test_blocks_of_any_size_give_the_same(folders, monkeypatch):
    whole = joined(folders)
    monkeypatch.setattr(module, "_BLOCK", 300)
    assert {name: study.values for name, study in joined(folders).items()} == {
        name: study.values for name, study in whole.items()
    }


def test_the_ledger_says_the_window_and_no_date_enters_the_dataset(folders, tmp_path):
    ledger = run(tmp_path, folders[0], mimic_iv=str(folders[1]), record_hours=12)
    details = {entry.study_id: entry.detail for entry in ledger.entries if entry.modality == "record"}
    assert set(details) == {
        f"s5000000{number}" for number in range(1, 6)
    }  # the sixth has neither a patient nor a projection
    assert set(details.values()) == {"first values within 12 h before the study"}
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert b"2080" not in written and b"2079" not in written


@pytest.mark.parametrize(
    ("row", "seconds"),
    [
        ({"StudyDate": "21800506", "StudyTime": "93014.531"}, 9 * 3600 + 30 * 60 + 14),
        ({"StudyDate": "21800506", "StudyTime": "0"}, 0),
        ({"StudyDate": "", "StudyTime": "93014"}, None),
        ({}, None),
    ],
)
def test_times_of_studies_are_read_as_pandas_writes_them(row, seconds):
    time = study_time(row)
    assert (time if time is None else time % 86400) == seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mimic_iv": None, "items": {"crp": [1]}}, "need mimic_iv"),
        ({"record_hours": 0}, "must be above 0"),
        ({"items": {"creatinin": [50912]}}, "unknown field of items 'creatinin'"),
        ({"items": {"crp": [123]}}, "options.items.crp names the itemid 123"),
        ({"fields": {"insurence": {"values": ["a", "b"]}}}, "did you mean 'insurance'"),
        ({"mimic_iv": "nowhere"}, "no folder at nowhere/hosp.*options.mimic_iv"),
        ({"mimic_iv_ed": "nowhere"}, "no folder at nowhere/ed.*options.mimic_iv_ed"),
    ],
)
def test_what_cannot_be_joined_is_refused_by_name(folders, options, message):
    with pytest.raises((DataError, ConfigError), match=message):
        joined(folders, **options)


def test_damaged_tables_are_refused_by_their_path(folders, tmp_path):
    iv = write_mimic_iv(tmp_path / "iv")
    (iv / "hosp/labevents.csv.gz").unlink()
    with pytest.raises(DataError, match=r"no labevents.csv.gz in .*hosp"):
        joined((folders[0], iv))
    (iv / "hosp/labevents.csv").write_text("subject_id,itemid,charttime,valueuom\n1,2,2080-01-01 06:00:00,x\n")
    with pytest.raises(DataError, match=r"labevents.csv cannot be read.*valuenum"):
        joined((folders[0], iv))
    (iv / "icu/chartevents.csv").write_text("subject_id,charttime,itemid,valuenum,valueuom\n1,yesterday,2,3,x\n")
    write_mimic_iv(tmp_path / "iv2")
    (tmp_path / "iv2/icu/chartevents.csv").write_text((iv / "icu/chartevents.csv").read_text())
    with pytest.raises(DataError, match=r"chartevents.csv cannot be read.*yesterday"):
        joined((folders[0], tmp_path / "iv2"))


def test_dicom_needs_the_table_of_times(tmp_path, folders):
    tree = with_times(small_tree(tmp_path / "dicom", ".dcm"))
    tables = tree.write()
    record, _ = joined((tables, folders[1]), "mimic-cxr")["s50000001"].read_values()
    assert record["age"] == 63.0 and record["leucocytes"] == 14.2
    (tables / "mimic-cxr-2.0.0-metadata.csv.gz").rename(tmp_path / "elsewhere.csv.gz")
    with pytest.raises(DataError, match=r"metadata.*"):
        joined((tables, folders[1]), "mimic-cxr")
