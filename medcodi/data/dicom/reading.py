"""DICOM radiographs in: the kind of image, the view and the body part from the tags, and the pixels as they are displayed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.data.dicom.pixels import display_from_stored, pixel_aspect, stored_pixels
from medcodi.data.dicom.tags import Tags, corrupt_if_it_fails, read_tags
from medcodi.data.dicom.views import View, view_of
from medcodi.data.images import MAX_PIXELS, check_image, square_pixels
from medcodi.data.refusals import Refused

# DICOM Modality of projection radiographs; exports often leave it empty.
_RADIOGRAPHS = ("CR", "DX", "RG", "RF", "OT", "")
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "StudyDescription")
# Patient Orientation, first value: the direction of image rows. Upright views only (columns run to the feet or the head).
_VIEW_OF_ROW_DIRECTION = {"L": "PA", "R": "AP", "A": "LL", "P": "RL"}
# Body parts that show a chest, or name nothing; SNOMED codes of the thorax where a code has no meaning text.
_CHEST = re.compile(r"CHEST|THORA|TORAX|LUNG|PULM|HEART|CARDIA|MEDIASTIN|POITRINE|PECHO|BRUSTKORB|51185008|T-D3000")
_NOT_CHEST = re.compile(r"SPINE|VERTEBRA|COLUMNA|COLUNA|WIRBEL")
_UNNAMED_PART = re.compile(r"(?:UNKNOWN|UNSPECIFIED|OTHER|NONE|NA|N/A|UNDEFINED|PORTABLE|BODY)?")
_HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "PatientSex", "PatientAge", "PatientSize", "PatientWeight", "PatientBodyMassIndex",
    "Modality",    "ViewPosition", "ViewCodeSequence", "PatientOrientation", "Manufacturer", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "BodyPartExamined", "AnatomicRegionSequence", *_DESCRIPTIONS,
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """The tags that a data set or a prompt needs."""

    study_id: str  # Study Instance UID, or the file's stem where there is none
    patient_id: str  # Patient ID, or ``"study:<study_id>"`` where it was removed
    # the image modality that the view means, or None where the tags do not say, or name another view
    modality: str | None
    view: str  # the tag value that names the view, for messages; all that was looked at where none does
    view_named: bool = False  # the tags name a view, known or not: a default view does not apply
    metadata: Mapping[str, Any] = field(default_factory=dict)  # sex, age, view position, manufacturer: no name, no date
    position: str = ""  # View Position as it stands, or ""
    size: str = ""  # Patient's Size (metres) as it stands, or ""
    weight: str = ""  # Patient's Weight (kilograms) as it stands, or ""
    bmi: str = ""  # Patient's Body Mass Index as it stands, or ""


@dataclass(frozen=True, kw_only=True)
class DicomImage:
    """An image, float32 ``[H, W]`` in [0, 1] with bone bright, and its header."""

    image: np.ndarray
    header: DicomHeader


def read_header(path: str | Path) -> DicomHeader:
    """Read the tags only; the pixels stay on disk.

    Raises:
        Refused: If the file is missing, empty, no DICOM file, not a radiograph, or not of a chest.
        MissingExtraError: If pydicom is not installed.
    """
    path = Path(path)
    with corrupt_if_it_fails(str(path)):
        tags = read_tags(path, only=_HEADER_TAGS)
        _check_kind(tags)
        return _header(tags, path)


def read_dicom(path: str | Path) -> DicomImage:
    """Read a radiograph; compressed transfer syntaxes are decoded by pylibjpeg's plugins.

    Stored values pass the modality LUT (or rescale), then the first VOI LUT or window (DICOM PS3.3 C.11.1, C.11.2);
    without one, their own range is used. MONOCHROME1 is inverted. All bits stored are kept. Pixels that are not square
    are resampled.

    Raises:
        Refused: If the file is missing, corrupt or cut short, holds several frames or colour, or is no chest radiograph.
        MissingExtraError: If pydicom, or the decoder of the file's compression, is not installed.
    """
    path = Path(path)
    with corrupt_if_it_fails(str(path)):
        tags = read_tags(path)
        _check_kind(tags)
        _check_pixels(tags)
        image = display_from_stored(tags, stored_pixels(tags))
        image = square_pixels(image, pixel_aspect(tags), str(path))
        check_image(image, str(path))
        return DicomImage(image=image, header=_header(tags, path))


def check_view(header: DicomHeader, modality: str | None, where: str) -> None:
    """Refuse a file whose view position names another view than the modality it is given as.

    Raises:
        Refused: If it does; descriptions, which name the whole examination, do not count.
    """
    view = view_of(header.position, position=True)
    if modality is not None and view.named and view.modality != modality:
        raise Refused(
            f"{where} is given as {modality}, but its View Position is {header.position!r}",
            reason="another view",
            expected=f"a {modality} image",
            fix=f"give it as {view.modality}" if view.modality else "leave it out, or correct the tag",
        )


def _check_kind(tags: Tags) -> None:
    """Refuse what is no single gray radiograph of a chest."""
    where = tags.where
    kind = tags.text("Modality").upper()
    if kind not in _RADIOGRAPHS:
        raise Refused(
            f"{where} is of DICOM modality {kind!r}",
            reason="not a radiograph",
            expected="CR or DX",
            fix="leave it out",
        )
    frames = tags.integer("NumberOfFrames", default=1)
    if frames > 1:
        raise Refused(
            f"{where} holds {frames} frames",
            reason="multi-frame",
            expected="one image",
            fix="export the frame you mean",
        )
    colour = tags.text("PhotometricInterpretation").upper() or _GRAY[1]
    if tags.integer("SamplesPerPixel", default=1) != 1 or colour not in _GRAY:
        raise Refused(
            f"{where} is in colour ({colour})",
            reason="colour",
            expected=" or ".join(_GRAY),
            fix="leave it out: radiographs are gray",
        )
    part = _body_part(tags)
    if not _shows_chest(part):
        raise Refused(
            f"{where} shows {part!r}, not a chest",
            reason="not a chest",
            expected="Body Part Examined CHEST or THORAX, or empty",
            fix="leave it out; correct the tag if it is wrong",
        )


def _body_part(tags: Tags) -> str:
    """Body Part Examined, else the meaning (or code) of the anatomic region, else ""."""
    regions = tags.items("AnatomicRegionSequence")
    codes = [item.text("CodeMeaning") or item.text("CodeValue") for item in regions]
    return tags.text("BodyPartExamined") or next(filter(None, codes), "")


def _shows_chest(part: str) -> bool:
    plain = unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode().upper().strip()
    if _UNNAMED_PART.fullmatch(plain):
        return True
    return _CHEST.search(plain) is not None and _NOT_CHEST.search(plain) is None


def _check_pixels(tags: Tags) -> None:
    """Refuse a file without pixels, cut short before them, or with more than can be held."""
    height, width = tags.integer("Rows", default=0), tags.integer("Columns", default=0)
    if height * width > MAX_PIXELS:
        raise Refused(
            f"{tags.where} is {width}×{height} pixels",
            reason="too large",
            expected=f"at most {MAX_PIXELS:,} pixels",
            fix="export it at a smaller size",
        )
    if any(keyword in tags.dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return
    if height and width:
        raise Refused(
            f"{tags.where} is cut short: its tags describe {width}×{height} pixels, and the file ends before them",
            reason="cut short",
            expected="a whole DICOM file",
            fix="copy or export it again",
        )
    raise Refused(
        f"{tags.where} holds no pixels",
        reason="no pixels",
        expected="a DICOM file with Pixel Data",
        fix="export the image itself, not a report or a presentation state",
    )


def _header(tags: Tags, path: Path) -> DicomHeader:
    study_id = tags.text("StudyInstanceUID") or path.stem
    view, words = _view(tags)
    metadata = {
        "view": words,
        "sex": tags.text("PatientSex"),
        "age": tags.text("PatientAge"),
        "manufacturer": tags.text("Manufacturer"),
    }
    return DicomHeader(
        study_id=study_id,
        patient_id=tags.text("PatientID") or f"study:{study_id}",
        modality=view.modality,
        view=words,
        view_named=view.named,
        metadata={key: value for key, value in metadata.items() if value},
        position=tags.text("ViewPosition"),
        size=tags.text("PatientSize"),
        weight=tags.text("PatientWeight"),
        bmi=tags.text("PatientBodyMassIndex"),
    )


def _view(tags: Tags) -> tuple[View, str]:
    """The view and the words that name it: View Position, then its code, then descriptions, then Patient Orientation."""
    seen = []
    # What is there to name the view decides, known or not.
    codes = [item.text("CodeMeaning") for item in tags.items("ViewCodeSequence")] + tags.texts("ViewCodeSequence")
    positions = [text for text in (tags.text("ViewPosition"), *codes) if text]
    for text in positions:
        seen.append(text)
        if (view := view_of(text, position=True)).modality:
            return view, text
    if any(view_of(text, position=True).named for text in positions):
        return View(named=True), "; ".join(seen)
    # Descriptions name the examination; a view among their words is taken where it is the only one.
    for text in filter(None, map(tags.text, _DESCRIPTIONS)):
        seen.append(text)
        if (view := view_of(text)).named:
            return view, text
    orientation = [text.upper() for text in tags.texts("PatientOrientation")]
    if len(orientation) == 2:
        seen.append("\\".join(orientation))
        code = _VIEW_OF_ROW_DIRECTION.get(orientation[0][:1], "")
        if orientation[1][:1] in ("F", "H") and code:
            return view_of(code, position=True), seen[-1]
    return View(), "; ".join(seen) or "no view in the tags"
