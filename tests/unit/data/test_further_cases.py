"""Further small inputs of the kinds of tests/cases that would come out wrong without a word, each with the right value."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcodi.data.generated_files import list_generated, read_generated
from medcodi.data.image_files import read_image
from medcodi.data.preparation.shards import PatientSplits, patient_key
from medcodi.data.refusals import Refused
from medcodi.data.reports import normalise_report, read_text
from medcodi.data.sources.announced import AnnouncedStudy, check_patients
from medcodi.errors import DataError
from medcodi.study import Direction
from tests.unit.data.dicom.test_reading import ramp, write
from tests.unit.data.test_cases import prepared

PA = {"ViewPosition": "PA", "PatientOrientation": ["L", "F"]}


# ---- DICOM -----------------------------------------------------------------------------------------------------------
def test_a_study_of_two_patients_is_left_out(tmp_path: Path) -> None:
    for number, (patient, view, study) in enumerate(
        [("p1", "PA", "1.2.3"), ("p2", "LATERAL", "1.2.3"), ("p3", "PA", "1.2.4"), ("p3", "LATERAL", "1.2.4")]
    ):
        write(tmp_path / f"{number}.dcm", ramp(), PatientID=patient, ViewPosition=view, StudyInstanceUID=study)
    ledger = prepared(tmp_path / "out", "dicom", tmp_path)
    assert ledger.counts()["reason"]["two patients"] == 1
    assert ledger.counts()["modality"] == {"frontal": 1, "lateral": 1}  # of 1.2.4


@pytest.mark.parametrize("rows", [17, 33])  # of 34: half of the picture, or all but a row
def test_pixels_beyond_those_of_the_tags_are_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(Refused, match="holds 2,720 bytes of pixels, and its tags say 40×"):
        read_image(write(tmp_path / "a.dcm", ramp(), Rows=rows))


def test_padding_after_the_pixels_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", ramp(), PixelData=ramp().tobytes() + bytes(16))
    np.testing.assert_array_equal(read_image(path), read_image(write(tmp_path / "b.dcm", ramp())))


# ---- patients --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("P7", "p7 ", True), ("007", "7", True), ("12", "12.0", True), ("Ａ1", "a1", True), ("a b", "ab", True),
        ("7", "70", False), ("p07", "p7", False), ("1.20", "1.2", False), ("0", "00", True),
    ],
)  # fmt: skip
def test_spellings_of_one_patient_are_never_divided(first: str, second: str, same: bool) -> None:
    assert (patient_key(first) == patient_key(second)) is same
    placed = set()
    for seed in range(40):
        splits = PatientSplits(seed=seed, val=0.3, test=0.3)
        placed.add(splits.place(first, None) == splits.place(second, None))
    assert (placed == {True}) is same
    if same and first != second:
        splits = PatientSplits(seed=0, val=0.3, test=0.3)
        splits.place(first, "train")
        with pytest.raises(DataError, match="also written .* is in two splits"):
            splits.place(second, "test")


@pytest.mark.parametrize(
    "patient",
    ["ANONYMOUS", "Anonymous^Patient", "anon", "N/A", "nan", "no id", "NOT AVAILABLE", "REDACTED", "000000", "Test^Patient", "***"],
)  # fmt: skip
def test_placeholders_are_no_patients(patient: str) -> None:
    records = [AnnouncedStudy(study_id=str(number), patient_id=patient) for number in range(3)]
    with pytest.raises(DataError, match="3 of 3 studies of x have no Patient ID, or a placeholder"):
        check_patients(records, "x", "Patient ID", "fix")


def test_pseudonyms_are_patients() -> None:
    names = ("ANON0001", "anon-17", "Patient 3", "test12", "X100")
    check_patients([AnnouncedStudy(study_id=name, patient_id=name) for name in names], "x", "Patient ID", "fix")


# ---- tables ----------------------------------------------------------------------------------------------------------
def one_row_an_image(
    tmp_path: Path, *rows: str, header: str = "study_id,patient_id,image,view,report"
) -> dict[str, Any]:
    Image.fromarray(ramp().astype(np.uint8)).save(tmp_path / "i.png")
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return prepared(tmp_path / "out", "csv", tmp_path / "t.csv").counts()


def test_an_image_of_another_view_is_left_out_alone(tmp_path: Path) -> None:
    counts = one_row_an_image(tmp_path, "s0,p,i.png,OBLIQUE,", "s0,p,i.png,PA,Clear.", "s0,p,i.png,DECUBITUS,")
    assert counts["modality"] == {"frontal": 1, "report": 1} and counts["reason"] == {"unknown view": 2}


def test_what_a_second_row_says_differently_is_in_the_ledger(tmp_path: Path) -> None:
    counts = one_row_an_image(
        tmp_path,
        "s0,p,i.png,PA,Clear.,1,yes",
        "s0,p,i.png,LATERAL,Effusion.,0,",
        header="study_id,patient_id,image,view,report,Edema,Fracture",
    )
    assert counts["reason"] == {"second report": 1, "second label": 1, "label: invalid value": 1}


def test_a_study_in_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="study 's0' is in two splits, 'train' and 'test'"):
        one_row_an_image(
            tmp_path, "s0,p,i.png,PA,train", "s0,p,i.png,LATERAL,test", header="study_id,patient_id,image,view,split"
        )


def test_tables_of_other_systems_are_read_as_those_of_sources(tmp_path: Path) -> None:
    path, direction = tmp_path / "t.csv", Direction.parse("frontal->report")
    path.write_text("study_id;direction;report\ns1;frontal->report;Clear, no effusion.\n")
    assert list_generated(path)[direction]["s1"]["report"].text == "Clear, no effusion."
    for text, message in (
        (
            "study_id,direction,report\ns1,frontal->report,Clear, no effusion.\n",
            "line 2: 4 cells, and the header has 3",
        ),
        ("study_id,direction,report\ns1,frontal->report\n", "line 2: 2 cells, and the header has 3"),
        ("study_id,direction,report,report\ns1,frontal->report,Clear.,Large.\n", "the column 'report' twice"),
        ("study_id,direction,report\ns1,frontal->report,nan\n", "line 2, report: the cell is empty"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            list_generated(path)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["study_id", "direction", "report"], ["s1", "frontal->report", "word " * 40_000]])
    assert len(list_generated(path)[direction]["s1"]["report"].text) == 199_999


# ---- texts and pictures ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Small e\ufb00usion.", "Small effusion."),
        ("No pneumo\u00adthorax.", "No pneumothorax."),
        ("\ufeffNo\u200b effusion\u2060.", "No effusion."),
        ("No\u00a0effusion.\x07", "No effusion."),
        ("Heart\x0bnormal.\x85Clear.", "Heart normal. Clear."),
        ("\u202eClear.\u202c", "Clear."),
        ("e\u200d\u0301", "\u00e9"),
    ],
)
def test_letters_that_no_reader_sees_are_none(written: str, read: str) -> None:
    assert normalise_report(written) == read == normalise_report(read)


def test_a_broken_letter_and_a_text_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="holds a broken letter"):
        normalise_report("Clear \ud800 lungs.")
    (tmp_path / "long.txt").write_text("word " * 300_000)
    with pytest.raises(Refused, match="larger than 1,048,576 bytes"):
        read_text(tmp_path / "long.txt")


def test_a_generated_report_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "frontal_to_report/s1").mkdir(parents=True)
    (tmp_path / "frontal_to_report/s1/report.txt").write_text("Clear.", encoding="utf-8-sig")
    (files,) = list_generated(tmp_path)[Direction.parse("frontal->report")].values()
    assert read_generated(files["report"], "report").value == "Clear."


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_use_the_bits_of_their_detector(tmp_path: Path, bits: int) -> None:
    Image.fromarray(ramp(bits)).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), ramp(bits) / (2**bits - 1), atol=1e-6)
