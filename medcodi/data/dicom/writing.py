"""A generated study out as DICOM: images as Secondary Capture, the report as Basic Text SR, all of one study and marked as synthetic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcodi.data.dicom.attributes import check_pydicom, derivation, made_by, new_object, uid
from medcodi.data.dicom.reports import pdf_object, report_object
from medcodi.data.images import to_uint16
from medcodi.modality import modality as modality_named
from medcodi.modality import names
from medcodi.record import Record
from medcodi.study import Content

if TYPE_CHECKING:
    from pydicom import Dataset

# View Position's defined terms (DICOM PS3.3 C.8.1.3); the table's codes also hold words that other sources use.
_VIEW_TERMS = ("AP", "PA", "LL", "RL")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def study_objects(
    contents: Mapping[str, Content], provenance: Mapping[str, Any], *, pdf: bool = False
) -> dict[str, Dataset]:
    """One sample as the DICOM objects of one study, in the order in which a server should receive them.

    Args:
        contents: Target -> image float32 ``[H, W]`` in [0, 1], text, or record. Only what was generated: a prompt may be a patient's.
        provenance: Provenance of the sample, with its one seed.
        pdf: Whether reports are added as encapsulated PDF too.

    Returns:
        Name (``frontal``, ``report``, ``report-pdf``) -> object: images, then the reports that refer to them. A record is no
        object: its fields are attributes of the others.

    Raises:
        DataError: If a report has a letter that the PDF's font lacks.
        MissingExtraError: If pydicom is not installed.
    """
    check_pydicom()
    # The record is in the attributes of every object.
    record = next((value for value in contents.values() if isinstance(value, Mapping)), {})
    objects = {
        name: image_object(value, name, provenance, record)
        for name, value in contents.items()
        if isinstance(value, np.ndarray)
    }
    # Reports last: they refer to the images.
    images = list(objects.values())
    for name, value in contents.items():
        if isinstance(value, str):
            objects[name] = report_object(value, name, provenance, record, images)
            if pdf:
                objects[f"{name}-pdf"] = pdf_object(value, name, provenance, record)
    return objects


def write_dicom(
    image: np.ndarray, path: Path, modality: str, provenance: Mapping[str, Any], record: Record | None = None
) -> None:
    """Write one generated image; :func:`medcodi.data.dicom.reading.read_dicom` reads it back within 1/131070.

    Args:
        image: float32 ``[H, W]`` in [0, 1], bone bright.
        path: The file; replaced where there is one.
        modality: As in :func:`image_object`.
        provenance: As there.
        record: As there.

    Raises:
        MissingExtraError: If pydicom is not installed.
    """
    save_object(image_object(image, modality, provenance, record or {}), path)


def save_object(dataset: Dataset, path: Path) -> None:
    """Write a data set as a DICOM file."""
    from pydicom import dcmwrite

    dcmwrite(path, dataset, enforce_file_format=True)


def image_object(image: np.ndarray, modality: str, provenance: Mapping[str, Any], record: Record) -> Dataset:
    r"""One generated image as a data set.

    A Secondary Capture image (PS3.3 A.8.1): MONOCHROME2, 16 bits, conversion type SYN, image type DERIVED\SECONDARY,
    Synthetic Data YES. It carries no date, and no name but a synthetic one. Images of one sample share a study. The same
    sample always gets the same UIDs.

    Args:
        image: float32 ``[H, W]`` in [0, 1], bone bright.
        modality: An image modality; gives the view position.
        provenance: Provenance of the sample: ``direction``, ``model`` (``name``, ``sha256``), ``prompts``, ``seeds``, ``settings``.
        record: The record that was generated with it.

    Raises:
        MissingExtraError: If pydicom is not installed.
    """
    # A view that the record names counts, where it is one of this modality.
    terms = [term for term in modality_named(modality).view_codes if term in _VIEW_TERMS]
    view = record["view"] if record.get("view") in terms else next(iter(terms), "")
    attributes = {
        "SeriesInstanceUID": uid(provenance, "series", modality),
        "SeriesDescription": f"Synthetic {modality_named(modality).title}",
        "SeriesNumber": names("image").index(modality) + 1,
        "InstanceNumber": 1,
        "Modality": "OT",  # a Secondary Capture made by no device; CR or DX would claim a detector
        "BodyPartExamined": "CHEST",
        "PatientOrientation": "",
        "ViewPosition": view,
    }
    instance = uid(provenance, "image", modality)
    return new_object(
        _SECONDARY_CAPTURE, instance, provenance, record, {**attributes, **_marks(provenance), **_pixels(image)}
    )


def _marks(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Statement of how one image was made."""
    return {
        "ImageType": ["DERIVED", "SECONDARY"],
        "ConversionType": "SYN",
        "BurnedInAnnotation": "NO",
        "RecognizableVisualFeatures": "NO",
        "LossyImageCompression": "00",
        "DerivationDescription": derivation(provenance),
        "ImageComments": f"SYNTHETIC, not for diagnosis. {made_by(provenance)}, {provenance['direction']}, "
        f"seed {provenance['seeds'][0]}",
    }


def _pixels(image: np.ndarray) -> dict[str, Any]:
    """Full 16-bit range with the window that maps it onto [0, 1] exactly (PS3.3 C.11.2.1.2)."""
    pixels = to_uint16(image)
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "WindowCenter": 32768,
        "WindowWidth": 65536,
        "VOILUTFunction": "LINEAR",
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "US",
        "PixelData": pixels.astype("<u2").tobytes(),
    }
