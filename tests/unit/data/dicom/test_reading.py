from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcodi.data.dicom.reading import read_dicom, read_header
from medcodi.data.image_files import read_image
from medcodi.data.refusals import Refused
from medcodi.errors import MissingExtraError

pydicom = pytest.importorskip("pydicom", reason="needs the extra 'dicom'")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid  # noqa: E402

REAL = Path(__file__).parents[5] / "shared" / "data" / "dicom"
HEIGHT, WIDTH = 34, 40
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def ramp(bits: int = 12) -> np.ndarray:
    """Every row from 0 to the greatest value of so many bits: uint16 [H, W]."""
    return np.tile(np.linspace(0, 2**bits - 1, WIDTH).round().astype(np.uint16), (HEIGHT, 1))


def write(path: Path, pixels: np.ndarray | None, *, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, DX
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["medcodi"])
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = DX, meta.MediaStorageSOPInstanceUID
    dataset.Modality = "DX"
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = 8 * pixels.dtype.itemsize
        dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def voi_lut(first: int, table: np.ndarray, bits: int, as_words: bool) -> list[Dataset]:
    item = Dataset()
    descriptor, data = [len(table), first, bits], table.astype("<u2")
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW" if as_words else "US", data.tobytes() if as_words else data.tolist())
    return [item]


def refused(path: Path) -> Refused:
    with pytest.raises(Refused) as refusal:
        read_dicom(path)
    assert path.name in str(refusal.value) or refusal.value.reason in ("bad shape", "constant")
    return refusal.value


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stored_values_fill_their_own_range(tmp_path: Path, syntax: str, dtype: type) -> None:
    pixels = ramp(8).astype(dtype) + 0
    found = read_dicom(write(tmp_path / "a.dcm", pixels, syntax=syntax)).image
    assert found.dtype == np.float32
    assert np.allclose(found, pixels / 255, atol=1e-6)


def test_monochrome1_is_inverted_so_that_bone_is_bright(tmp_path: Path) -> None:
    pixels = ramp()
    plain = read_dicom(write(tmp_path / "a.dcm", pixels)).image
    inverted = read_dicom(write(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1")).image
    assert np.allclose(inverted, 1 - plain, atol=1e-6)


def test_all_twelve_bits_are_kept(tmp_path: Path) -> None:
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    found = read_dicom(write(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11)).image
    assert len(np.unique(found)) == 4096


def test_window_follows_the_standard(tmp_path: Path) -> None:
    pixels = ramp()
    found = read_dicom(write(tmp_path / "a.dcm", pixels, WindowCenter=2048, WindowWidth=1000)).image
    expected = np.clip((pixels - 2047.5) / 999 + 0.5, 0, 1)  # PS3.3 C.11.2.1.2.1
    assert np.allclose(found, expected, atol=1e-5)


def test_the_first_of_several_windows_is_taken(tmp_path: Path) -> None:
    one = read_dicom(write(tmp_path / "a.dcm", ramp(), WindowCenter=1000, WindowWidth=500)).image
    many = read_dicom(write(tmp_path / "b.dcm", ramp(), WindowCenter=[1000, 3000], WindowWidth=[500, 900])).image
    assert np.array_equal(one, many)


@pytest.mark.parametrize(("function", "middle"), [("SIGMOID", 0.5), ("LINEAR_EXACT", 0.5)])
def test_other_window_functions(tmp_path: Path, function: str, middle: float) -> None:
    tags = {"WindowCenter": 2000, "WindowWidth": 800, "VOILUTFunction": function}
    found = read_dicom(write(tmp_path / "a.dcm", ramp(), **tags)).image[0]
    assert np.all(np.diff(found) >= 0)
    assert abs(np.interp(2000, ramp()[0], found) - middle) < 0.05


def test_a_window_of_no_width_is_no_window(tmp_path: Path) -> None:
    found = read_dicom(write(tmp_path / "a.dcm", ramp(), WindowCenter=2048, WindowWidth=0)).image
    assert np.allclose(found, ramp() / 4095, atol=1e-6)


def test_rescale_comes_before_the_window(tmp_path: Path) -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 0, "WindowWidth": 1001}
    found = read_dicom(write(tmp_path / "a.dcm", ramp(), **tags)).image
    expected = np.clip((ramp() * 2.0 - 1024 + 0.5) / 1000 + 0.5, 0, 1)
    assert np.allclose(found, expected, atol=1e-5)


def test_rescale_of_negative_slope_turns_the_image(tmp_path: Path) -> None:
    found = read_dicom(write(tmp_path / "a.dcm", ramp(), RescaleSlope=-1, RescaleIntercept=4095)).image
    assert np.allclose(found, 1 - ramp() / 4095, atol=1e-6)


@pytest.mark.parametrize("as_words", [True, False])
@pytest.mark.parametrize("bits", [8, 12])
def test_voi_lut(tmp_path: Path, as_words: bool, bits: int) -> None:
    table = np.round(np.sqrt(np.linspace(0, 1, 4096)) * (2**bits - 1)).astype(np.uint16)
    path = write(tmp_path / "a.dcm", ramp(), VOILUTSequence=voi_lut(0, table, bits, as_words))
    assert np.allclose(read_dicom(path).image, table[ramp()] / (2**bits - 1), atol=1e-5)


def test_voi_lut_after_rescale_begins_where_its_descriptor_says(tmp_path: Path) -> None:
    table = np.arange(1000, dtype=np.uint16)
    tags = {"RescaleSlope": 1, "RescaleIntercept": 500, "WindowCenter": 1, "WindowWidth": 2}
    path = write(tmp_path / "a.dcm", ramp(), VOILUTSequence=voi_lut(1500, table, 12, True), **tags)
    assert np.allclose(read_dicom(path).image, np.clip((ramp() + 500.0 - 1500) / 999, 0, 1), atol=1e-5)


def test_a_broken_voi_lut_is_refused(tmp_path: Path) -> None:
    item = voi_lut(0, np.arange(4096), 12, True)[0]
    item.add_new("LUTDescriptor", "US", [4096])  # the first value mapped and the bits are missing
    assert refused(write(tmp_path / "a.dcm", ramp(), VOILUTSequence=[item])).reason == "corrupt"


def test_a_voi_lut_item_without_a_table_counts_as_absent(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTExplanation = "neither descriptor nor data"
    found = read_dicom(write(tmp_path / "a.dcm", ramp(), VOILUTSequence=[item])).image
    assert np.allclose(found, ramp() / 4095, atol=1e-6)


def test_signed_values(tmp_path: Path) -> None:
    pixels = ramp().astype(np.int16) - 2048
    found = read_dicom(write(tmp_path / "a.dcm", pixels)).image
    assert np.allclose(found, ramp() / 4095, atol=1e-6)


def test_what_stands_in_unused_bits_is_no_image(tmp_path: Path) -> None:
    overlaid = ramp() | np.uint16(0xF000)  # as retired overlays were
    found = read_dicom(write(tmp_path / "a.dcm", overlaid, BitsStored=12, HighBit=11)).image
    assert np.allclose(found, ramp() / 4095, atol=1e-6)
    unsigned_form = (ramp().astype(np.int16) - 2048) & np.int16(0x0FFF)  # 12 bits signed, sign not extended
    found = read_dicom(write(tmp_path / "b.dcm", unsigned_form, BitsStored=12, HighBit=11)).image
    assert np.allclose(found, ramp() / 4095, atol=1e-6)


def test_padding_is_black_and_outside_the_range(tmp_path: Path) -> None:
    pixels = ramp()
    pixels[:4] = 65535
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        path = write(tmp_path / "a.dcm", pixels, PixelPaddingValue=65535, PhotometricInterpretation=photometric)
        found = read_dicom(path).image
        expected = ramp() / 4095 if photometric == "MONOCHROME2" else 1 - ramp() / 4095
        assert found[:4].max() == 0
        assert np.allclose(found[4:], expected[4:], atol=1e-6)


def test_read_image_reads_dicom_without_a_suffix(tmp_path: Path) -> None:
    path = write(tmp_path / "IM0001", ramp())
    assert np.array_equal(read_image(path), read_dicom(path).image)


def test_no_pixels(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "a.dcm", None)).reason == "no pixels"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"NumberOfFrames": 3}, "multi-frame"),
        ({"Modality": "CT"}, "not a radiograph"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
    ],
)
def test_what_is_no_radiograph_is_refused_before_its_pixels_are_read(tmp_path: Path, tags: dict, reason: str) -> None:
    path = write(tmp_path / "a.dcm", ramp(), **tags)
    assert refused(path).reason == reason
    with pytest.raises(Refused):
        read_header(path)


def test_files_cut_short_at_any_byte(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.dcm", ramp(), ViewPosition="PA").read_bytes()
    for share in (0.02, 0.06, 0.2, 0.5, 0.99):
        (tmp_path / "cut.dcm").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(Refused) as refusal:
            read_dicom(tmp_path / "cut.dcm")
        assert refusal.value.reason in ("corrupt", "cut short", "unreadable", "no pixels")


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "text.dcm").write_text("not a DICOM file " * 20)
    assert refused(tmp_path / "none.dcm").reason == "missing file"
    assert refused(tmp_path / "empty.dcm").reason == "empty file"
    assert refused(tmp_path / "text.dcm").reason == "unreadable"


def test_too_small_and_constant(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "small.dcm", ramp()[:20])).reason == "too small"
    assert refused(write(tmp_path / "flat.dcm", np.full((40, 40), 7, np.uint16))).reason == "constant"
    padded = write(tmp_path / "padded.dcm", np.full((40, 40), 7, np.uint16), PixelPaddingValue=7)
    assert refused(padded).reason == "constant"


@pytest.mark.parametrize(
    ("tags", "modality"),
    [
        ({"ViewPosition": "PA"}, "frontal"),
        ({"ViewPosition": "AP"}, "frontal"),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"ViewPosition": "lateral"}, "lateral"),
        ({"SeriesDescription": "W033 Chest Lat."}, "lateral"),
        ({"SeriesDescription": "CHEST, PA"}, "frontal"),
        ({"ProtocolName": "Thorax lateral"}, "lateral"),
        ({"SeriesDescription": "PA and lateral"}, None),
        ({"SeriesDescription": "Portable chest"}, None),
        ({"PatientOrientation": ["L", "F"]}, "frontal"),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"PatientOrientation": ["P", "F"]}, "lateral"),
        ({"PatientOrientation": ["L", "P"]}, None),
        ({"ViewPosition": "PA", "SeriesDescription": "lateral"}, "frontal"),
        ({}, None),
    ],
)
def test_the_view_from_the_tags(tmp_path: Path, tags: dict, modality: str | None) -> None:
    header = read_header(write(tmp_path / "a.dcm", ramp(), **tags))
    assert header.modality == modality
    assert header.view


def test_the_view_from_its_code(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "R-10214", "SNM3", "postero-anterior"
    assert read_header(write(tmp_path / "a.dcm", ramp(), ViewCodeSequence=[code])).modality == "frontal"


def test_header_holds_what_is_needed_and_no_name(tmp_path: Path) -> None:
    tags = {"PatientName": "Doe^Jane", "PatientID": "p7", "PatientSex": "F", "PatientAge": "061Y"}
    path = write(tmp_path / "a.dcm", ramp(), StudyInstanceUID="1.2.3", ViewPosition="PA", StudyDate="20200101", **tags)
    header = read_header(path)
    assert (header.study_id, header.patient_id) == ("1.2.3", "p7")
    assert header.metadata == {"view": "PA", "sex": "F", "age": "061Y"}
    assert read_dicom(path).header == header
    assert "Doe" not in repr(header)


def test_ids_where_the_tags_are_gone(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "chest-01.dcm", ramp()))
    assert (header.study_id, header.patient_id) == ("chest-01", "study:chest-01")


@pytest.mark.parametrize("name", ["gdcm-CR-MONO1-10-chest.dcm", "NEMA-WG04_RG1_J2KI.dcm"])
def test_real_files(name: str) -> None:
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ../shared/data/dicom")
    image = read_dicom(path).image
    assert min(image.shape) > 300
    assert image.min() >= 0 and image.max() <= 1
    assert image.std() > 0.1
    height, width = image.shape
    rows = slice(height // 5, 2 * height // 5)
    spine = image[rows, 47 * width // 100 : 53 * width // 100]
    lungs = image[rows, [*range(25 * width // 100, 35 * width // 100), *range(65 * width // 100, 75 * width // 100)]]
    assert spine.mean() > lungs.mean() + 0.1  # bone is bright, air is not


def packaged(name: str, path: Path, **tags: Any) -> Path:
    """A compressed file that comes with pydicom, as if it were a radiograph of a chest, with other tags."""
    from pydicom.data import get_testdata_file

    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    dataset.Modality, dataset.BodyPartExamined = "CR", "CHEST"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def test_twelve_bit_jpeg_is_read_with_all_its_bits(tmp_path: Path) -> None:
    pytest.importorskip("libjpeg")
    path = packaged("JPGExtended.dcm", tmp_path / "a.dcm", WindowCenter=100, WindowWidth=200)  # process 4
    found = read_dicom(path).image
    pixels = pydicom.dcmread(path).pixel_array
    assert pixels.max() > 255 and found.shape == pixels.shape
    assert np.allclose(found, np.clip((pixels - 99.5) / 199 + 0.5, 0, 1), atol=1e-6)
    # Fewer Bits Stored than the picture has cut no bit off.
    assert np.array_equal(read_dicom(packaged("JPGExtended.dcm", path, WindowCenter=100, WindowWidth=200, BitsStored=8, HighBit=7)).image, found)  # fmt: skip
    # A stream that no decoder reads says why.
    assert "misplaced marker" in str(refused(packaged("JPEG-lossy.dcm", tmp_path / "b.dcm")))


def test_a_decoder_that_is_not_installed_is_named_with_the_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydicom.pixels import get_decoder

    decoder = get_decoder("1.2.840.10008.1.2.4.51")
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0", "pylibjpeg-libjpeg>=2.1")})
    with pytest.raises(MissingExtraError, match=r"JPEG Extended \(Process 2 and 4\).*pip install 'medcodi\[dicom\]'"):
        read_dicom(packaged("JPGExtended.dcm", tmp_path / "a.dcm"))


SIZES = [(512, 256), (1024, 128), (2048, 256), (1023, 256), (256, 1024), (512, 512)]


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "JPGExtended.dcm"])
def test_a_stream_of_another_size_than_the_tags_is_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("openjpeg")
    for rows, columns in SIZES:  # larger, smaller, and as many pixels in other rows
        refusal = refused(packaged(name, tmp_path / "a.dcm", Rows=rows, Columns=columns))
        assert refusal.reason == "invalid tag" and f"tags say {columns}×{rows}" in str(refusal)
        assert "256×1024 pixels" in str(refusal)
    shallow = packaged(name, tmp_path / "a.dcm", BitsAllocated=8, BitsStored=8, HighBit=7)
    assert refused(shallow).reason == "invalid tag"
    assert read_dicom(packaged(name, tmp_path / "a.dcm")).image.shape == (1024, 256)
