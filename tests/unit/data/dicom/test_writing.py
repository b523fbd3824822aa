"""Generated images as DICOM: read back, marked as synthetic, the same file every time."""

import shutil
import subprocess

import numpy as np
import pytest

from medcodi.data.dicom.reading import read_dicom, read_header
from medcodi.data.dicom.writing import uid, write_dicom
from medcodi.data.image_files import read_image
from medcodi.generation.result import Generation, Sample
from medcodi.modality import names
from medcodi.study import Direction

pydicom = pytest.importorskip("pydicom")
PROVENANCE = {
    "direction": "report->frontal+lateral",
    "model": {"name": "tiny", "sha256": "0" * 64},
    "prompts": {"report": {"sha256": "1" * 64, "weight": 1.0}},
    "seeds": [3],
    "settings": {"sampler": "ddim"},
}
IMAGE = np.linspace(0.25, 0.75, 40 * 48, dtype=np.float32).reshape(40, 48)


@pytest.mark.parametrize("name", names("image"))
def test_it_reads_back_with_its_own_range_and_view(tmp_path, name):
    write_dicom(IMAGE, tmp_path / "x.dcm", name, PROVENANCE)
    found = read_dicom(tmp_path / "x.dcm")
    np.testing.assert_allclose(found.image, IMAGE, atol=1 / 131000)
    assert found.header.modality == name and found.header.patient_id.startswith("SYNTHETIC-")
    np.testing.assert_array_equal(read_image(tmp_path / "x.dcm"), found.image)


def test_it_is_marked_as_synthetic(tmp_path):
    write_dicom(IMAGE, tmp_path / "x.dcm", "frontal", PROVENANCE)
    told = pydicom.dcmread(tmp_path / "x.dcm")
    assert (
        list(told.ImageType) == ["DERIVED", "SECONDARY"]
        and told.ConversionType == "SYN"
        and told.SyntheticData == "YES"
    )
    assert (
        told.BurnedInAnnotation == "NO" and "SYNTHETIC" in told.ImageComments and "SYNTHETIC" in str(told.PatientName)
    )
    assert told.file_meta.MediaStorageSOPInstanceUID == told.SOPInstanceUID and told.SOPInstanceUID.startswith("2.25.")
    assert all(one.is_valid for one in (told.SOPInstanceUID, told.StudyInstanceUID, told.SeriesInstanceUID))
    assert not told.StudyDate and told.ViewPosition == "PA" and told.BitsStored == 16


def test_every_required_attribute_of_a_secondary_capture_is_there(tmp_path):
    write_dicom(IMAGE, tmp_path / "x.dcm", "lateral", PROVENANCE)
    told = pydicom.dcmread(tmp_path / "x.dcm")
    # Type 1 and 2 of the mandatory modules of PS3.3 A.8.1.3: patient, study, series, SC equipment, image, pixels, SOP common.
    wanted = [
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
        "StudyID",
        "AccessionNumber",
        "Modality",
        "SeriesInstanceUID",
        "SeriesNumber",
        "ConversionType",
        "InstanceNumber",
        "PatientOrientation",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelData",
        "SOPClassUID",
        "SOPInstanceUID",
    ]
    assert [keyword for keyword in wanted if keyword not in told] == []


def test_the_same_sample_gives_the_same_file_and_another_one_other_uids(tmp_path):
    for name in ("a.dcm", "b.dcm"):
        write_dicom(IMAGE, tmp_path / name, "frontal", PROVENANCE)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    others = [{**PROVENANCE, "seeds": [4]}, {**PROVENANCE, "model": {"name": "tiny", "sha256": "2" * 64}}]
    assert len({uid(told, "study") for told in (PROVENANCE, *others)}) == 3
    assert uid(PROVENANCE, "image", "frontal") != uid(PROVENANCE, "image", "lateral")


def test_a_generation_is_saved_as_dicom_with_reports_as_text(tmp_path):
    contents = {"frontal": IMAGE, "lateral": IMAGE[::-1].copy(), "report": "Clear."}
    direction = Direction((), ("frontal", "lateral", "report"))
    made = Generation(
        direction, [Sample(seed=seed, contents=contents) for seed in (0, 1)], {**PROVENANCE, "seeds": [0, 1]}
    )
    folder = made.save(tmp_path / "out", format="dicom")
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        "0/frontal.dcm", "0/lateral.dcm", "0/report.txt", "1/frontal.dcm", "1/lateral.dcm", "1/report.txt", "provenance.json",
    ]  # fmt: skip
    studies = {read_header(folder / place).study_id for place in ("0/frontal.dcm", "0/lateral.dcm", "1/frontal.dcm")}
    assert len(studies) == 2
    np.testing.assert_allclose(
        read_image(made.save(tmp_path / "png", format="png16") / "0/frontal.png"), IMAGE, atol=1e-5
    )


def test_an_unknown_format_is_refused_and_nothing_is_left(tmp_path):
    made = Generation(Direction((), ("frontal",)), [Sample(seed=0, contents={"frontal": IMAGE})], PROVENANCE)
    with pytest.raises(ValueError, match="did you mean 'dicom'"):
        made.save(tmp_path / "out", format="dicon")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize("modality", names("image"))
def test_the_validator_finds_no_error_of_ours(tmp_path, modality: str) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(np.random.default_rng(0).random((64, 64), dtype=np.float32), path, modality, PROVENANCE)
    result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    # Synthetic Data (0008,001C) is younger than the validator's tables.
    errors = [line for line in lines if line.startswith("Error") and "(0x0008,0x001c)" not in line]
    assert "SCImage" in lines and errors == []
