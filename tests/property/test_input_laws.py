"""Random valid and broken input files: the right value, or a refusal; never a traceback, never a silent difference.

``MEDCODI_FUZZ=2000`` runs that many examples of each law; by default a few dozen.
"""

from __future__ import annotations

import csv
import io
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medcodi.data.dicom.reading import read_dicom, read_header
from medcodi.data.image_files import read_image
from medcodi.data.tables import read_rows
from medcodi.errors import MedCoDiError

pydicom = pytest.importorskip("pydicom", reason="needs the extra 'dicom'")

from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.pixels import apply_modality_lut, apply_windowing  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

MANY = settings(max_examples=int(os.environ.get("MEDCODI_FUZZ", "40")))
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
SIDE = 33


def dicom_file(
    path: Path, pixels: np.ndarray, bits: int, syntax: str, tags: dict[str, object]
) -> tuple[Path, FileDataset]:
    """Write pixels ``[H, W]`` of so many bits with any tags; the data set as written."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    big, implicit = syntax == ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    dataset = FileDataset(
        str(path), {}, file_meta=meta, preamble=bytes(128), is_implicit_VR=implicit, is_little_endian=not big
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    dataset.Modality, dataset.ViewPosition = "DX", "PA"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if big else "<"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path, dataset


@st.composite
def stored_images(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    bits = draw(st.sampled_from([8, 10, 12, 15, 16]))
    signed = draw(st.booleans()) and bits > 8
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = np.dtype("u1") if bits == 8 else np.dtype("i2") if signed else np.dtype("u2")
    return rng.integers(low, high, (SIDE, SIDE), endpoint=True).astype(kind), bits


@MANY
@given(
    image=stored_images(),
    syntax=st.sampled_from(SYNTAXES),
    slope=st.sampled_from([None, 1.0, 0.5, 2.0]),
    intercept=st.sampled_from([None, 0.0, -1024.0, 17.5]),
    window=st.sampled_from([None, (100.0, 50.0), (2048.0, 4096.0), (-200.0, 900.0), (40.0, 1.0)]),
    inverted=st.booleans(),
)
def test_a_valid_dicom_is_shown_as_pydicom_shows_it(
    tmp_path_factory, image, syntax, slope, intercept, window, inverted
) -> None:
    pixels, bits = image
    tags: dict[str, object] = {"PhotometricInterpretation": "MONOCHROME1"} if inverted else {}
    if slope is not None and intercept is not None:
        tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    if window is not None:
        tags |= {"WindowCenter": window[0], "WindowWidth": window[1]}
    path, dataset = dicom_file(tmp_path_factory.mktemp("dicom") / "a.dcm", pixels, bits, syntax, tags)
    expected = apply_modality_lut(pixels, dataset).astype(np.float64)
    if window is not None:
        shown = apply_windowing(expected, dataset)
        # pydicom maps onto the range of the rescaled values; so many bits as the file says.
        low, high = (0, 2**bits - 1) if pixels.dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        ends = np.array([low, high]) * (slope or 1.0) + (intercept or 0.0) if "RescaleSlope" in tags else (low, high)
        expected = (shown - ends[0]) / (ends[1] - ends[0])
    else:
        expected = (expected - expected.min()) / (expected.max() - expected.min())
    expected = 1 - expected if inverted else expected
    if expected.min() == expected.max():  # a window beside all values
        with pytest.raises(MedCoDiError, match="all of one value"):
            read_dicom(path)
        return
    np.testing.assert_allclose(read_dicom(path).image, expected, atol=2e-4)


@st.composite
def damaged(draw: st.DrawFn, data: bytes, first: int = 0) -> bytes:
    """Bytes overwritten, cut out, doubled or cut off."""
    broken = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        if len(broken) <= first + 1:
            break
        place, kind = draw(st.integers(first, len(broken) - 1)), draw(st.sampled_from("wdic"))
        span = draw(st.integers(1, 8))
        if kind == "w":
            broken[place : place + span] = draw(st.binary(min_size=span, max_size=span))
        elif kind == "d":
            del broken[place : place + span]
        elif kind == "i":
            broken[place:place] = draw(st.binary(min_size=span, max_size=span))
        elif draw(st.integers(0, 3)) == 0:
            del broken[place:]
    return bytes(broken)


def image_or_refusal(read, path: Path) -> None:
    try:
        image = read(path)
    except MedCoDiError:
        return
    assert image.dtype == np.float32 and image.ndim == 2
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


@MANY
@given(data=st.data(), image=stored_images(), syntax=st.sampled_from(SYNTAXES))
def test_a_broken_dicom_is_read_or_refused(tmp_path_factory, data, image, syntax) -> None:
    tags = {"PatientID": "p", "WindowCenter": 10, "WindowWidth": 5, "PixelSpacing": [1, 1], "BodyPartExamined": "CHEST"}
    path, _ = dicom_file(tmp_path_factory.mktemp("dicom") / "a.dcm", *image, syntax, tags)
    path.write_bytes(data.draw(damaged(path.read_bytes(), first=128)))
    image_or_refusal(lambda file: read_dicom(file).image, path)
    with suppress(MedCoDiError):
        read_header(path)


_VALUES = st.one_of(st.text(max_size=20), st.integers(-(2**15), 2**16 - 1).map(str), st.just(""), st.just("1.0"))


@MANY
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["NumberOfFrames", "WindowCenter", "RescaleSlope", "PatientID", "ViewPosition", "BodyPartExamined"]
            + ["PatientOrientation", "PixelSpacing", "StudyInstanceUID", "SeriesDescription", "PatientAge"]
        ),
        _VALUES,
        max_size=4,
    ),
    representation=st.sampled_from(["LO", "CS", "UT", "SH"]),
)
def test_tags_of_any_text_are_read_or_refused(tmp_path_factory, values, representation) -> None:
    pixels = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
    path, dataset = dicom_file(tmp_path_factory.mktemp("dicom") / "a.dcm", pixels, 16, ExplicitVRLittleEndian, {})
    for keyword, value in values.items():
        text = value.replace("\\", "/").replace("\0", "")
        dataset.add_new(
            pydicom.datadict.tag_for_keyword(keyword), representation, text.encode("ascii", "ignore").decode()
        )
    dataset.save_as(path, enforce_file_format=True)
    image_or_refusal(lambda file: read_dicom(file).image, path)


@MANY
@given(image=stored_images(), kind=st.sampled_from(["PNG", "TIFF", "BMP", "JPEG", "JPEG2000", "WEBP"]), data=st.data())
def test_a_picture_is_as_pillow_decodes_it_and_a_broken_one_refused(tmp_path_factory, image, kind, data) -> None:
    pixels, bits = image
    sixteen = bits > 8 and kind in ("PNG", "TIFF")
    values = pixels.astype(np.uint16) if sixteen else (pixels.astype(np.int64) % 256).astype(np.uint8)
    values[0, 0], values[0, 1] = 0, np.iinfo(values.dtype).max  # every bit is used
    path = tmp_path_factory.mktemp("picture") / "a.bin"
    Image.fromarray(values).save(path, format=kind)
    with Image.open(path) as picture:
        decoded = np.asarray(picture if picture.mode in ("I;16", "I", "L") else picture.convert("L"))
    expected = decoded / (65535 if sixteen else 255)
    np.testing.assert_allclose(read_image(path), expected, atol=1 / 255 if kind == "WEBP" else 1e-6)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    image_or_refusal(read_image, path)


_CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


@MANY
@given(
    names=st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=1, max_size=4, unique=True),
    rows=st.lists(st.lists(_CELLS, min_size=4, max_size=4), min_size=1, max_size=6),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    separator=st.sampled_from(",;\t"),
)
def test_a_table_is_as_the_csv_module_reads_it(tmp_path_factory, names, rows, ending, separator) -> None:
    rows = [row[: len(names)] for row in rows]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=separator, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *rows])
    path = tmp_path_factory.mktemp("table") / "a.csv"
    path.write_bytes(buffer.getvalue().encode())
    expected = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if len(names) == 1 and separator != ",":
        return  # nothing shows the separator
    try:
        read = [list(row.cells.values()) for row in read_rows(path)]
    except MedCoDiError as error:
        assert not expected and "no rows" in str(error)
        return
    assert read == expected


@MANY
@given(data=st.data())
def test_a_broken_table_is_read_or_refused(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    text = 'study_id,patient_id,report\ns0,p0,"Heart, normal."\ns1,p1,"No ""acute"" change.\n"\ns2,p2,Clear.\n'
    path.write_bytes(data.draw(damaged(text.encode())))
    try:
        rows = list(read_rows(path))
    except MedCoDiError:
        return
    assert rows and len({len(row.cells) for row in rows}) == 1


def test_a_deflated_file_that_inflates_beyond_every_image_is_refused(tmp_path: Path) -> None:
    import zlib

    pixels = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
    path, _ = dicom_file(tmp_path / "bomb.dcm", pixels, 16, DeflatedExplicitVRLittleEndian, {})
    head = path.read_bytes()[: 144 + int.from_bytes(path.read_bytes()[140:144], "little")]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(2**22)
    body = b"".join(packer.compress(block) for _ in range(110)) + packer.flush()  # 440 MiB of zeros in 0.5 MB
    path.write_bytes(head + body)
    assert path.stat().st_size < 2**20
    with pytest.raises(MedCoDiError, match="inflates to more than"):
        read_dicom(path)
