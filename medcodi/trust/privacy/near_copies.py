"""``medcodi synthesize --exclude-near-copies``: generations nearer to a training study than real patients are to each other are left out.

A filter is no proof: what it leaves in may still disclose a patient in a way that these distances do not see.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.data.dataset import read_study
from medcodi.data.image_files import read_image
from medcodi.data.images import fit_square
from medcodi.data.loading import StudyDataset
from medcodi.errors import DataError
from medcodi.generation.bulk.folder import RESULTS
from medcodi.modality import names
from medcodi.model import MedCoDi
from medcodi.randomness import numpy_generator
from medcodi.storage import atomic
from medcodi.trust.privacy.attacks.memorisation import COPY_QUANTILE
from medcodi.trust.privacy.attacks.spaces import Space, spaces_of

TABLE, SUMMARY = "near_copies.csv", "near_copies.json"
COLUMNS = ("study_id", "modality", "space", "distance", "threshold", "training_study")
STATEMENT = "Generations nearer to a training study than all but 1 % of real patients are to each other were left out. A filter is no proof of privacy."
SAMPLED = 2000  # training studies whose nearest neighbour gives the threshold
_BLOCK = 256


@dataclass(frozen=True)
class NearCopy:
    """One generated image that is nearer to a training study than the threshold."""

    study_id: str
    modality: str
    space: str
    distance: float
    threshold: float
    training_study: str

    def row(self) -> dict[str, Any]:
        """A row of the table."""
        return {name: f"{value:.5g}" if isinstance(value := getattr(self, name), float) else value for name in COLUMNS}


def exclude_near_copies(out: Path, training: StudyDataset, model: MedCoDi) -> tuple[int, int]:
    """Rewrite ``results.csv`` of a finished synthesis without near copies; write ``near_copies.csv`` and ``near_copies.json``.

    The files of excluded studies stay, so that the synthesis can be resumed; no table but ``near_copies.csv`` names them.

    Args:
        out: The folder of the synthesis.
        training: The studies that the model was trained on.
        model: Whose autoencoders and prompt encoders measure, beside registered pixels.

    Returns:
        Numbers of studies excluded, and of studies generated.

    Raises:
        DataError: If there are no results, an image is unreadable, or too few training studies have a modality.
    """
    path = out / RESULTS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", fix="finish the synthesis first") from None
    # Every image modality that was generated, in every space.
    copies: list[NearCopy] = []
    views = [name for name in names("image") if any(row.get(name) for row in rows)]
    spaces = [space for space in spaces_of(model) if "image" in space.kinds]
    for view in views:
        made = [row for row in rows if row.get(view)]
        images = [
            fit_square(read_image(out / row[view], modality=view, allow_constant=True), training.image_size)
            for row in made
        ]
        ids, patients, real = _training_images(training, view, spaces)
        for space in spaces:
            threshold = copy_distance(space, real[space.name], patients)
            distance, nearest = nearest_of(space, space.features(view, images), real[space.name])
            copies += [
                NearCopy(row["study_id"], view, space.name, float(own), threshold, ids[place])
                for row, own, place in zip(made, distance, nearest, strict=True)
                if own < threshold
            ]
    # The tables: near copies first, so that no moment shows fewer results than both together.
    excluded = {copy.study_id for copy in copies}
    _write_table(out / TABLE, COLUMNS, [copy.row() for copy in copies])
    by_space = Counter(copy.space for copy in copies)
    summary = {
        "statement": STATEMENT,
        "training": {"name": training.name, "fingerprint": training.fingerprint, "studies": len(training)},
        "generated": len(rows),
        "excluded": len(excluded),
        "by_space": dict(sorted(by_space.items())),
    }
    atomic.write_json(out / SUMMARY, summary, error=DataError)
    _write_table(path, columns, [row for row in rows if row["study_id"] not in excluded])
    return len(excluded), len(rows)


def _training_images(
    training: StudyDataset, view: str, spaces: Sequence[Space]
) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
    """Ids, patients, and features by space, of the training studies that have a view; images are read block by block."""
    ids, patients = [], []
    parts: dict[str, list[np.ndarray]] = {space.name: [] for space in spaces}
    for start in range(0, len(training), _BLOCK):
        studies = [read_study(training, index) for index in range(start, min(start + _BLOCK, len(training)))]
        studies = [study for study in studies if view in study.images]
        ids += [study.study_id for study in studies]
        patients += [study.patient_id for study in studies]
        for space in spaces if studies else ():
            parts[space.name].append(space.features(view, [study.images[view] for study in studies]))
    if len(set(patients)) < 20:
        raise DataError(
            f"{training.name} has {view} images of {len(set(patients))} patients",
            expected="at least 20, to know how near real patients are to each other",
            fix="give the training data of the model",
        )
    return ids, patients, {name: np.concatenate(own) for name, own in parts.items()}


def copy_distance(space: Space, real: np.ndarray, patients: Sequence[str]) -> float:
    """Distance that 1 % of real studies fall below, to the nearest study of another patient."""
    chosen = numpy_generator("near copies", len(real)).permutation(len(real))[:SAMPLED]
    names_of = np.asarray(patients, dtype=object)
    nearest = []
    for start in range(0, len(chosen), _BLOCK):
        part = chosen[start : start + _BLOCK]
        table = space.distances(real[part], real).astype(np.float64)
        table[names_of[part][:, None] == names_of[None]] = np.inf
        nearest.append(table.min(1))
    return float(np.quantile(np.concatenate(nearest), COPY_QUANTILE))


def nearest_of(space: Space, made: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest real study, and its place: ``[G]`` each."""
    distances, places = [], []
    for start in range(0, len(made), _BLOCK):
        table = space.distances(made[start : start + _BLOCK], real)
        distances.append(table.min(1))
        places.append(table.argmin(1))
    return np.concatenate(distances), np.concatenate(places)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue(), error=DataError)
