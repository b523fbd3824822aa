"""Generated images out as DICOM: Secondary Capture, 16 bit, and marked as synthetic wherever the standard has a place for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.data.images import to_uint16
from medcodi.errors import MissingExtraError
from medcodi.modality import modality as modality_named
from medcodi.modality import names

# View Position's defined terms (DICOM PS3.3 C.8.1.3); the table's codes also hold words that other sources use.
_VIEW_TERMS = ("AP", "PA", "LL", "RL")
_UID_ROOT = "2.25."  # UIDs made of a number of at most 128 bits (ITU-T X.667)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def write_dicom(image: np.ndarray, path: Path, modality: str, provenance: Mapping[str, Any]) -> None:
    r"""Write one generated image; :func:`medcodi.data.dicom.reading.read_dicom` reads it back within 1/131070.

    A Secondary Capture image (PS3.3 A.8.1): MONOCHROME2, 16 bits, conversion type SYN, image type DERIVED\SECONDARY,
    Synthetic Data YES. It carries no date, and no name but a synthetic one. Images of one sample share a study. The same
    sample always gets the same UIDs.

    Args:
        image: float32 ``[H, W]`` in [0, 1], bone bright.
        path: The file; replaced where there is one.
        modality: An image modality; gives the view position.
        provenance: Provenance of the sample: ``direction``, ``model`` (``name``, ``sha256``), ``prompts``, ``seeds``, ``settings``.

    Raises:
        MissingExtraError: If pydicom is not installed.
    """
    try:
        from pydicom import Dataset, dcmwrite
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import UID
    except ImportError:
        raise MissingExtraError("pydicom", extra="dicom", needed_for="writing DICOM files") from None
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_SECONDARY_CAPTURE)
    meta.MediaStorageSOPInstanceUID = UID(uid(provenance, "image", modality))
    meta.TransferSyntaxUID = UID(_EXPLICIT_LITTLE_ENDIAN)
    dataset = Dataset()
    dataset.file_meta = meta
    for keyword, value in {**_identity(modality, provenance), **_marks(provenance), **_pixels(image)}.items():
        setattr(dataset, keyword, value)
    dcmwrite(path, dataset, enforce_file_format=True)


def uid(provenance: Mapping[str, Any], *what: str) -> str:
    """A UID that depends on the sample (model, direction, prompts, settings, seed) and on ``what`` alone."""
    made_of = {key: provenance[key] for key in ("direction", "model", "prompts", "seeds", "settings")}
    made_of |= {key: provenance[key] for key in ("edit",) if key in provenance}
    digest = hashlib.sha256(json.dumps([*what, made_of], sort_keys=True).encode()).digest()
    return _UID_ROOT + str(int.from_bytes(digest[:16], "big"))


def _identity(modality: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Patient, study, series and instance: one made-up patient for each sample; type 2 attributes are empty."""
    view = next((code for code in modality_named(modality).view_codes if code in _VIEW_TERMS), "")
    number = names("image").index(modality) + 1
    patient = "SYNTHETIC-" + hashlib.sha256(uid(provenance, "study").encode()).hexdigest()[:12]
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": _SECONDARY_CAPTURE,
        "SOPInstanceUID": uid(provenance, "image", modality),
        "StudyInstanceUID": uid(provenance, "study"),
        "SeriesInstanceUID": uid(provenance, "series", modality),
        "PatientName": "SYNTHETIC^MEDCODI",
        "PatientID": patient,
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyDate": "",
        "StudyTime": "",
        "StudyID": patient[-12:],
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "StudyDescription": "Synthetic chest examination",
        "SeriesDescription": f"Synthetic {modality_named(modality).title}",
        "SeriesNumber": number,
        "InstanceNumber": 1,
        "Modality": "OT",  # a Secondary Capture made by no device; CR or DX would claim a detector
        "BodyPartExamined": "CHEST",
        "PatientOrientation": "",
        "ViewPosition": view,
    }


def _marks(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that says: this is no patient, or of an edit: this shows none as it was."""
    model, edited = provenance["model"], "edit" in provenance
    made_by = f"MedCoDi model {model['name']} {model['sha256'][:12]}"
    return {
        "ImageType": ["DERIVED", "SECONDARY"],
        "ConversionType": "SYN",
        "SyntheticData": "YES",
        "BurnedInAnnotation": "NO",
        "RecognizableVisualFeatures": "NO",
        "LossyImageCompression": "00",
        "Manufacturer": "MedCoDi",
        "ManufacturerModelName": str(model["name"])[:64],
        "DerivationDescription": f"Edited by {made_by} from given films; not de-identified"
        if edited
        else f"Generated by {made_by}; no patient was examined",
        "ImageComments": f"SYNTHETIC, not for diagnosis. {made_by}, {provenance['direction']}, seed {provenance['seeds'][0]}",
        "PatientComments": "Edited: may show the patient of the given films"
        if edited
        else "Synthetic: this patient does not exist",
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
