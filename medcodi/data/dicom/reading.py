"""DICOM radiographs in: stored values, modality LUT, VOI LUT or window, bone bright; and the view from the tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcodi.data.dicom.pixels import display_from_stored, stored_pixels
from medcodi.data.images import check_file, check_image
from medcodi.data.refusals import Refused
from medcodi.errors import MissingExtraError
from medcodi.modality import modality_of_view

if TYPE_CHECKING:
    from pydicom import Dataset

# DICOM Modality of projection radiographs; exports often leave it empty.
_RADIOGRAPHS = ("CR", "DX", "RG", "RF", "OT", "")
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "StudyDescription")
# Patient Orientation, first value: where image rows run to. Upright views only (columns run to the feet or the head).
_VIEW_OF_ROW_DIRECTION = {"L": "PA", "R": "AP", "A": "LL", "P": "RL"}
_HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "PatientSex", "PatientAge", "Modality",
    "ViewPosition", "ViewCodeSequence", "PatientOrientation", "Manufacturer", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", *_DESCRIPTIONS,
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """What the tags say.

    Attributes:
        study_id: Study Instance UID, or the file's stem where there is none.
        patient_id: Patient ID, or ``"study:<study_id>"`` where it was removed.
        modality: The image modality that the view means, or None where the tags do not tell.
        view: The tag value that told, for messages; all that was looked at where nothing did.
        metadata: Sex, age, view position, manufacturer: no name, no date.
        position: View Position as it stands, or "".
    """

    study_id: str
    patient_id: str
    modality: str | None
    view: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    position: str = ""


@dataclass(frozen=True, kw_only=True)
class DicomImage:
    """An image, float32 ``[H, W]`` in [0, 1] with bone bright, and its header."""

    image: np.ndarray
    header: DicomHeader


def read_header(path: str | Path) -> DicomHeader:
    """Read the tags only; the pixels stay on disk.

    Raises:
        Refused: If the file is missing, empty, no DICOM file, or not a radiograph.
        MissingExtraError: If pydicom is not installed.
    """
    dataset = _read(Path(path), header_only=True)
    _check_kind(dataset, str(path))
    return _header(dataset, Path(path))


def read_dicom(path: str | Path) -> DicomImage:
    """Read a radiograph; compressed transfer syntaxes are decoded by pylibjpeg's plugins.

    Stored values pass the modality LUT (or rescale), then the first VOI LUT or window (DICOM PS3.3 C.11.1, C.11.2);
    without one, their own range is used. MONOCHROME1 is inverted. All bits stored are kept.

    Raises:
        Refused: If the file is missing, corrupt, holds no pixels, several frames or colour, or is no radiograph.
        MissingExtraError: If pydicom is not installed.
    """
    path = Path(path)
    dataset = _read(path)
    _check_kind(dataset, str(path))
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Refused(
            f"{path} holds no pixels",
            reason="no pixels",
            expected="a DICOM file with Pixel Data",
            fix="export the image itself, not a report or a presentation state",
        )
    image = display_from_stored(dataset, stored_pixels(dataset, str(path)), str(path))
    check_image(image, str(path))
    return DicomImage(image=image, header=_header(dataset, path))


def _read(path: Path, header_only: bool = False) -> Dataset:
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise MissingExtraError("pydicom", extra="dicom", needed_for="reading DICOM files") from None
    check_file(path, str(path))
    try:
        if header_only:
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
        return pydicom.dcmread(path)
    except InvalidDicomError:
        raise Refused(
            f"{path} is not a DICOM file (no DICM mark at byte 128)", reason="unreadable", expected="a DICOM file"
        ) from None
    except Exception as error:  # pydicom's parser lets many kinds through on broken files
        raise Refused(
            f"{path} is corrupt ({type(error).__name__}: {error})",
            reason="corrupt",
            expected="a whole DICOM file",
            fix="export it again",
        ) from error


def _check_kind(dataset: Dataset, where: str) -> None:
    kind = str(dataset.get("Modality") or "").upper()
    if kind not in _RADIOGRAPHS:
        raise Refused(
            f"{where} is of DICOM modality {kind!r}",
            reason="not a radiograph",
            expected="CR or DX",
            fix="leave it out",
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise Refused(
            f"{where} holds {frames} frames",
            reason="multi-frame",
            expected="one image",
            fix="export the frame you mean",
        )
    colour = str(dataset.get("PhotometricInterpretation") or _GRAY[1])
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or colour not in _GRAY:
        raise Refused(
            f"{where} is in colour ({colour})",
            reason="colour",
            expected=" or ".join(_GRAY),
            fix="leave it out: radiographs are gray",
        )


def _header(dataset: Dataset, path: Path) -> DicomHeader:
    study_id = str(dataset.get("StudyInstanceUID") or path.stem)
    modality, view = _view(dataset)
    metadata = {
        "view": view,
        "sex": str(dataset.get("PatientSex") or ""),
        "age": str(dataset.get("PatientAge") or ""),
        "manufacturer": str(dataset.get("Manufacturer") or ""),
    }
    return DicomHeader(
        study_id=study_id,
        patient_id=str(dataset.get("PatientID") or "") or f"study:{study_id}",
        modality=modality,
        view=view,
        metadata={key: value for key, value in metadata.items() if value},
        position=str(dataset.get("ViewPosition") or "").strip(),
    )


def _view(dataset: Dataset) -> tuple[str | None, str]:
    """(modality, what told it): View Position, then its code, then descriptions, then Patient Orientation."""
    seen = []
    position = str(dataset.get("ViewPosition") or "").strip()
    codes = [str(item.get("CodeMeaning", "")) for item in dataset.get("ViewCodeSequence") or []]
    for text in filter(None, [position, *codes]):
        seen.append(text)
        if found := modality_of_view(text) or modality_in_words(text):
            return found, text
    for keyword in _DESCRIPTIONS:
        text = str(dataset.get(keyword) or "")
        if text:
            seen.append(text)
        if found := modality_in_words(text):
            return found, text
    orientation = [str(value).upper() for value in dataset.get("PatientOrientation") or []]
    if len(orientation) == 2:
        seen.append("\\".join(orientation))
        if orientation[1][:1] in ("F", "H") and (
            found := modality_of_view(_VIEW_OF_ROW_DIRECTION.get(orientation[0][:1], ""))
        ):
            return found, seen[-1]
    return None, "; ".join(seen) or "no view in the tags"


def modality_in_words(text: str) -> str | None:
    """The one modality whose view codes occur as words; None where none or several do (``"PA and lateral"``)."""
    words = [word for word in re.split(r"[^A-Za-z]+", text) if len(word) > 1]  # a single L may be a side
    found = {modality for word in words if (modality := modality_of_view(word))}
    return found.pop() if len(found) == 1 else None
