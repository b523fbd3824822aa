"""A sample folder: phantom studies as PNG files and one table, for trying every command before one's own data are ready."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from medcodi.data.dataset import PHANTOMS_PER_SPLIT, SPLITS
from medcodi.data.images import save_png8
from medcodi.errors import DataError
from medcodi.modality import names
from medcodi.storage import atomic
from medcodi.study import CHEXPERT_LABELS, Study

TABLE = "studies.csv"
WRITTEN = (*names("image"), *names("text"))  # the phantoms of a sample have no record
NUM_HELD_OUT = {"val": 4, "test": 8}  # an evaluation needs eight studies
LEAST_SAMPLE = sum(NUM_HELD_OUT.values()) * 2


def write_sample(out: Path, num_studies: int = 32, *, image_size: int = 128) -> Path:
    """Write phantom studies as ``images/<study>_<view>.png``, ``reports/<study>.txt`` and ``studies.csv``.

    The table has one row a study: study, patient, split, a column for each modality (paths from the table's folder; the report
    itself), and CheXpert's fourteen labels. The last twelve studies are held out: 4 in ``val``, 8 in ``test``.

    Args:
        out: A folder that does not exist.
        num_studies: At least 24.
        image_size: Pixels a side.

    Returns:
        The table.

    Raises:
        DataError: If the folder exists, or the number is too small; nothing is written then.
    """
    from medcodi.data.sources.phantom import phantom_study

    if out.exists():
        raise DataError(
            f"{out} exists already", expected="a folder that does not exist", fix="choose another one, or remove it"
        )
    if num_studies < LEAST_SAMPLE:
        raise DataError(
            f"a sample of {num_studies} studies",
            expected=f"at least {LEAST_SAMPLE}: twelve are held out for validation and evaluation",
            fix=f"--studies {LEAST_SAMPLE}",
        )

    # Each split from its own range of phantoms, as everywhere.
    counts = {"train": num_studies - sum(NUM_HELD_OUT.values()), **NUM_HELD_OUT}
    header = ["study_id", "patient_id", "split", *WRITTEN, *CHEXPERT_LABELS]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    with atomic.filling(out, error=DataError, then="run it again") as folder:
        for name in ("images", "reports"):
            (folder / name).mkdir()
        number = 0
        for split in SPLITS:
            first = SPLITS.index(split) * PHANTOMS_PER_SPLIT
            for index in range(first, first + counts[split]):
                number += 1
                study = phantom_study(0, index, image_size)
                cells = _write_study(folder, f"study{number:03d}", study)
                labels = [f"{study.labels[label]:g}" if label in study.labels else "" for label in CHEXPERT_LABELS]
                patient = f"phantom-{number:03d}"  # by which training knows the domain: no real patient
                table.writerow([f"study{number:03d}", patient, split, *(cells[name] for name in WRITTEN), *labels])
        (folder / TABLE).write_text(text.getvalue(), encoding="utf-8")
    return out / TABLE


def _write_study(folder: Path, study_id: str, study: Study) -> dict[str, str]:
    """Write the files of one study; modality -> its cell: the path of an image, the text of a report."""
    cells = {}
    for name in WRITTEN:
        value = study.contents[name]
        if name in names("image"):
            cells[name] = f"images/{study_id}_{name}.png"
            save_png8(np.asarray(value), folder / cells[name], origin="phantom")
        else:
            cells[name] = str(value)
            (folder / "reports" / f"{study_id}.txt").write_text(f"{value}\n", encoding="utf-8")
    return cells
