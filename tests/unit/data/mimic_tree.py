"""A small tree of the form of MIMIC-CXR and MIMIC-CXR-JPG, written by the tests: random pixels and sentences of our own."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from medcodi.study import CHEXPERT_LABELS

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old with cough.

 FINDINGS:

 The lungs of case {name} are clear.  No effusion.

 IMPRESSION:

 Nothing acute.
"""


@dataclass
class Tree:
    """What the tables say, image by image; :meth:`write` puts it on disk."""

    root: Path
    suffix: str = ".jpg"
    rows: list[dict[str, str]] = field(default_factory=list)
    splits: list[dict[str, str]] = field(default_factory=list)
    labels: list[dict[str, str]] = field(default_factory=list)

    def image(
        self, subject: int, study: int, name: str, view: str = "PA", split: str = "train", words: str = ""
    ) -> Path:
        """One image, its row in the tables, and its study's report and labels if they are not there yet."""
        ids = {"dicom_id": name, "subject_id": str(subject), "study_id": str(study)}
        self.rows.append({**ids, "ViewPosition": view, "ViewCodeSequence_CodeMeaning": words, "Rows": "48"})
        self.splits.append({**ids, "split": split})
        folder = self.root / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(self.rows)).integers(0, 256, (48, 48), dtype=np.uint8)
        file = folder / f"{name}{self.suffix}"
        if self.suffix == ".jpg":
            Image.fromarray(pixels).save(file)
        else:
            write_dicom(file, pixels, view, words)
        report = folder.with_suffix(".txt")
        if not report.exists():
            report.write_text(REPORT.format(name=study))
            blank = dict.fromkeys(CHEXPERT_LABELS, "")
            self.labels.append({"subject_id": ids["subject_id"], "study_id": ids["study_id"], **blank, "Edema": "-1.0"})
        return file

    def write(self, *, packed: bool = True) -> Path:
        """Write the tables; returns the root."""
        for name, rows in (("metadata", self.rows), ("split", self.splits), ("chexpert", self.labels)):
            write_table(self.root / f"mimic-cxr-2.0.0-{name}.csv{'.gz' if packed else ''}", rows)
        return self.root


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    """A CSV file, compressed where its name says so."""
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def small_tree(root: Path, suffix: str = ".jpg") -> Tree:
    """Six studies of four patients in two groups and three splits."""
    tree = Tree(root, suffix)
    tree.image(10000001, 50000001, "a1", "PA")
    tree.image(10000001, 50000001, "a2", "LATERAL")
    tree.image(10000001, 50000002, "b1", "AP")
    tree.image(10000002, 50000003, "c1", "LL", "validate")
    tree.image(10000002, 50000003, "c2", "AP", "validate")
    tree.image(11000003, 50000004, "d1", "AP", "test")
    tree.image(11000004, 50000005, "e1", "PA")
    tree.image(11000004, 50000006, "f1", "", words="postero-anterior")
    return tree


def write_dicom(path: Path, pixels: np.ndarray, view: str, words: str) -> None:
    """An 8-bit DICOM radiograph."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid(entropy_srcs=[str(path)])
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Modality, data.ViewPosition = "CR", view
    data.ViewCodeSequence = [Dataset()] if words else []
    for item in data.ViewCodeSequence:
        item.CodeMeaning = words
    data.PhotometricInterpretation, data.SamplesPerPixel = "MONOCHROME2", 1
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)
