"""A generated study as linked DICOM objects: images, structured report, PDF; and structured reports read back."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from medcodi.data.dicom.reading import read_header
from medcodi.data.dicom.reports import ENCAPSULATED_PDF, references, report_text
from medcodi.data.dicom.writing import save_object, study_objects
from medcodi.data.sources.dicom_folder import record_values
from medcodi.errors import DataError, MissingExtraError
from medcodi.record import CLINICAL_RECORD

pydicom = pytest.importorskip("pydicom")
PROVENANCE = {
    "direction": "->frontal+lateral+report+record",
    "model": {"name": "tiny", "sha256": "0" * 64},
    "prompts": {},
    "seeds": [3],
    "settings": {"sampler": "ddim"},
    "versions": {"medcodi": "1.0"},
}
IMAGE = np.linspace(0.25, 0.75, 40 * 48, dtype=np.float32).reshape(40, 48)
REPORT = "FINDINGS: The heart is large. No effusion.\nIMPRESSION: Cardiomegaly (moderate)."
RECORD = {"age": 71.0, "sex": "F", "bmi": 24.3, "view": "AP", "crp": 3.2}
CONTENTS = {"frontal": IMAGE, "lateral": IMAGE[::-1].copy(), "report": REPORT, "record": RECORD}


def read_again(dataset: Any) -> Any:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(file.getvalue()))


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    return {name: read_again(one) for name, one in study_objects(CONTENTS, PROVENANCE, pdf=True).items()}


def test_one_sample_is_one_study_of_one_patient_in_series_of_their_own(objects: dict[str, Any]) -> None:
    assert list(objects) == ["frontal", "lateral", "report", "report-pdf"]
    for keyword, number in (("StudyInstanceUID", 1), ("PatientID", 1), ("SeriesInstanceUID", 4), ("SOPInstanceUID", 4), ("SeriesNumber", 4)):  # fmt: skip
        assert len({one.get(keyword) for one in objects.values()}) == number, keyword
    again = study_objects(CONTENTS, PROVENANCE, pdf=True)
    assert all(read_again(again[name]) == one for name, one in objects.items())
    other = study_objects(CONTENTS, {**PROVENANCE, "seeds": [4]})
    assert other["report"].StudyInstanceUID != objects["report"].StudyInstanceUID


def test_every_object_says_that_it_is_synthetic_and_what_made_it(objects: dict[str, Any]) -> None:
    for one in objects.values():
        (equipment,) = one.ContributingEquipmentSequence
        assert one.SyntheticData == "YES" and "SYNTHETIC" in str(one.PatientName) and not one.StudyDate
        assert equipment.Manufacturer == "MedCoDi" and "no patient was examined" in equipment.ContributionDescription
        assert equipment.DeviceSerialNumber == "0" * 64 and equipment.SoftwareVersions == "1.0"
    edited = study_objects({"report": REPORT}, {**PROVENANCE, "edit": {"strength": 0.5}})["report"]
    assert "not de-identified" in edited.ContributingEquipmentSequence[0].ContributionDescription
    assert edited.SOPInstanceUID != objects["report"].SOPInstanceUID


def test_the_record_is_in_tags_and_comes_back(objects: dict[str, Any], tmp_path: Any) -> None:
    for one in objects.values():
        assert (one.PatientAge, one.PatientSex, one.PatientBodyMassIndex) == ("071Y", "F", 24.3)
        assert one.AdditionalPatientHistory == "crp=3.2" and "PatientSize" not in one and "PatientWeight" not in one
    assert objects["frontal"].ViewPosition == "AP" and objects["lateral"].ViewPosition == "LL"
    save_object(objects["frontal"], tmp_path / "frontal.dcm")
    values = CLINICAL_RECORD.parse(record_values(read_header(tmp_path / "frontal.dcm")))
    assert values == {key: RECORD[key] for key in ("age", "sex", "bmi", "view")}
    infant = study_objects({"report": REPORT, "record": {"age": 0.5, "sex": "unknown"}}, PROVENANCE)["report"]
    assert infant.PatientAge == "006M" and infant.PatientSex == "" and infant.AdditionalPatientHistory == "sex=unknown"


def test_a_report_refers_to_the_images_of_its_sample(objects: dict[str, Any]) -> None:
    report = objects["report"]
    assert references(report) == {objects[name].SOPInstanceUID for name in ("frontal", "lateral")}
    assert (report.Modality, report.CompletionFlag, report.VerificationFlag) == ("SR", "COMPLETE", "UNVERIFIED")
    alone = study_objects({"report": REPORT}, PROVENANCE)["report"]
    assert references(alone) == set() and report_text(read_again(alone)) == REPORT


@pytest.mark.parametrize(
    "text",
    [
        REPORT,
        "FINDINGS: Klare Lungen, größer als 3 µm – Ωμέγα.",
        "IMPRESSION: Normal.",
        "The heart is large. No effusion.",
        "IMPRESSION: First.\nFINDINGS: In another order.",
        "INDICATION: Cough.\nFINDINGS: Clear.\nIMPRESSION: Normal.",
        "Before any heading.\nFINDINGS: Clear.",
    ],
)
def test_a_report_comes_back_as_it_was(text: str) -> None:
    assert report_text(read_again(study_objects({"report": text}, PROVENANCE)["report"])) == text


def test_reports_of_others_are_read_by_their_headings() -> None:
    report = study_objects({"report": REPORT}, PROVENANCE)["report"]
    *_, findings, impression = report.ContentSequence
    impression.ConceptNameCodeSequence[0].CodeValue, impression.ConceptNameCodeSequence[0].CodeMeaning = "1", "Advice"
    more = pydicom.Dataset()
    more.RelationshipType, more.ValueType, more.TextValue = "CONTAINS", "TEXT", " A second text. "
    findings.ContentSequence.append(more)
    assert report_text(report) == (
        "FINDINGS: The heart is large. No effusion. A second text.\nADVICE: Cardiomegaly (moderate)."
    )
    # A tree deeper than any report, and one without content.
    item = report
    for _ in range(100):
        child = pydicom.Dataset()
        child.RelationshipType, child.ValueType, child.TextValue = "CONTAINS", "TEXT", "x"
        item.ContentSequence = [child]
        item = child
    assert report_text(report).count("x") == 33
    assert report_text(pydicom.Dataset()) == ""


def test_the_pdf_holds_the_text_and_its_table_is_right() -> None:
    long = "\n".join(["FINDINGS: " + "word (and) back\\slash é – " * 40] * 20)
    one = study_objects({"report": long}, PROVENANCE, pdf=True)["report-pdf"]
    document = one.EncapsulatedDocument[: one.EncapsulatedDocumentLength]
    assert one.SOPClassUID == ENCAPSULATED_PDF and document.startswith(b"%PDF-1.4") and document.endswith(b"%%EOF\n")
    assert b"SYNTHETIC, not for diagnosis" in document and rb"word \(and\) back\\slash" in document
    assert document.count(b"/Type /Page ") == int(document.split(b"/Count ")[1].split()[0]) > 1
    # Each row of the cross-reference table points to its object.
    start = int(document.split(b"startxref\n")[1].split()[0])
    rows = document[start:].splitlines()[3:]
    starts = [int(row[:10]) for row in rows if row.endswith(b" n ")]
    assert all(document[at:].startswith(b"%d 0 obj" % number) for number, at in enumerate(starts, start=1))
    with pytest.raises(DataError, match="'Ω'"):
        study_objects({"report": "Ω"}, PROVENANCE, pdf=True)


def test_pydicom_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"medcodi\[dicom\]"):
        study_objects(CONTENTS, PROVENANCE)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("frontal", "SCImage"),
        ("lateral", "SCImage"),
        ("report", "BasicTextSR"),
        ("report-pdf", "EncapsulatedPDF"),
        ("empty", "BasicTextSR"),
    ],
)
def test_the_validator_finds_no_error_in_any_kind_of_object(
    objects: dict[str, Any], tmp_path: Any, name: str, kind: str
) -> None:
    # A model may generate no word at all.
    empty = study_objects({"report": ""}, PROVENANCE, pdf=True) if name == "empty" else {}
    save_object(empty.get("report") or objects[name], tmp_path / "a.dcm")
    result = subprocess.run(["dciodvfy", str(tmp_path / "a.dcm")], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    # Synthetic Data (0008,001C) is younger than the validator's tables.
    errors = [line for line in lines if line.startswith("Error") and "(0x0008,0x001c)" not in line]
    assert kind in lines and errors == [], lines


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="needs dsrdump (Debian: dcmtk)")
def test_another_reader_finds_the_same_report(objects: dict[str, Any], tmp_path: Any) -> None:
    save_object(objects["report"], tmp_path / "a.dcm")
    result = subprocess.run(["dsrdump", str(tmp_path / "a.dcm")], capture_output=True, text=True, check=True)
    assert "Cardiomegaly (moderate)." in result.stdout and "E: " not in result.stderr
    assert result.stdout.count("contains IMAGE") == 2
