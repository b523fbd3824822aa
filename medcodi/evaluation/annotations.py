"""Tables of annotations: what annotators found in contents. They are stored in the bundle, and everything that is scored is in them.

::

    annotations/annotations.json           protocol, systems, excluded contents (what is not per study)
    annotations/studies.npz                ids, patients, truth
    annotations/real/<modality>.npz        real contents: prompts and targets
    annotations/systems/<system>/<direction>/<target>.npz
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from medcodi.config import from_dict, to_dict
from medcodi.data.generated_files import direction_folder
from medcodi.errors import DataError
from medcodi.metrics.fields import Fields, columns_of
from medcodi.metrics.findings import sides_of
from medcodi.record import FieldConfig, RecordConfig
from medcodi.storage import atomic
from medcodi.storage.checked_json import parse_json
from medcodi.storage.names import stays_inside
from medcodi.study import CHEXPERT_LABELS, Direction, Finding

METADATA, STUDIES, REAL = "annotations.json", "studies.npz", "real"
SIDES = {"left": 1, "right": 2}  # bits of a side code
FEATURES, REPORT_SCORES, FLOOR = "features/", "report/", "_floor"  # in names of arrays
_RECORDS = "records/"  # in names of the arrays of the table of studies
# What reading a damaged npz file, and the values in it, may raise.
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    EOFError,
    BadZipFile,
    zlib.error,
)


def side_codes(findings: Sequence[Sequence[Finding]]) -> np.ndarray:
    """Sides of each label in each study: int8 ``[N, 14]``, bits of ``SIDES``; 0 if absent or without a side."""
    codes = [
        [sum(SIDES[side] for side in sides_of(study, label)) for label in CHEXPERT_LABELS] if study else [0] * 14
        for study in findings
    ]
    return np.array(codes, dtype=np.int8).reshape(len(findings), len(CHEXPERT_LABELS))


@dataclass(frozen=True)
class PairSimilarities:
    """MS-SSIM of pairs of different patients' images, generated and real, at the same pairs."""

    pairs: np.ndarray  # int `[P, 2]`: positions among the scored studies
    generated: np.ndarray  # float64 `[P]`
    real: np.ndarray
    num_scales: int  # of MS-SSIM


@dataclass(frozen=True)
class AnnotationTable:
    """Annotations of N contents of one modality."""

    modality: str
    rows: list[int]  # of the held-out studies
    hashes: list[str] = field(default_factory=list)  # SHA-256 of each content, as annotated
    texts: list[str] = field(default_factory=list)  # reports; empty for images
    # name -> `[N, ...]`: `labels` (float32 `[N, 14]` of 0, 1, NaN if not judged), `sides` (int8 `[N, 14]`,
    # see `side_codes`), `margin` (`[N, 14]`: probability minus threshold, NaN if unknown),
    # `probabilities` (`[N, K]` of `targets`), `features/<extractor>`, `latent`, `geometry`, `range`,
    # `brightness`, `ssim`, `psnr`, `report/<metric>`; `…_floor`: the same against another patient's truth;
    # of `fields`, those of a record or those that a film shows: `values` (`[N, C]`: numbers on their own scale, a
    # probability or share for each category, NaN if unknown), and of records `draws` (`[N, S, F]`, categories by index)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    targets: tuple[str, ...] = ()  # columns of `probabilities`: a label, or label/side
    judged: tuple[str, ...] = ()  # targets that the annotator recognises in this modality
    pairs: PairSimilarities | None = None  # of a generated image modality
    fields: Fields = field(default_factory=dict)  # of a record: those that `values` has columns of
    judged_fields: tuple[str, ...] = ()  # those that the annotator recognises in this modality; of records all

    def __len__(self) -> int:
        return len(self.rows)

    def values_of(self, name: str, like: FieldConfig) -> np.ndarray | None:
        """The columns of one field, ``[N, C]``; None if there is no such field, or it has other categories or another scale."""
        own = self.fields.get(name)
        if own is None or (own.values, own.scale) != (like.values, like.scale):
            return None
        return self.arrays["values"][:, columns_of(self.fields)[name]]

    def at(self, rows: Sequence[int]) -> AnnotationTable:
        """The annotations of some studies, named by row."""
        index_of = {row: index for index, row in enumerate(self.rows)}
        indices = [index_of[row] for row in rows]
        return replace(
            self,
            rows=list(rows),
            hashes=[self.hashes[index] for index in indices],
            texts=[self.texts[index] for index in indices] if self.texts else [],
            arrays={name: array[indices] for name, array in self.arrays.items()},
        )

    @classmethod
    def concatenate(cls, parts: Sequence[AnnotationTable]) -> AnnotationTable:
        """Shards of one table, one after the other; arrays that a shard lacks are left out."""
        names = set.intersection(*(set(part.arrays) for part in parts))
        return replace(
            parts[0],
            rows=[row for part in parts for row in part.rows],
            hashes=[digest for part in parts for digest in part.hashes],
            texts=[text for part in parts for text in part.texts],
            arrays={name: np.concatenate([part.arrays[name] for part in parts]) for name in sorted(names)},
        )

    def save(self, path: Path) -> None:
        """Write the table to one file, atomically."""
        header: dict[str, Any] = {
            "modality": self.modality,
            "texts": self.texts,
            "targets": self.targets,
            "judged": self.judged,
            **({"fields": stored_fields(self.fields), "judged_fields": self.judged_fields} if self.fields else {}),
        }
        arrays: dict[str, Any] = {f"array/{name}": array for name, array in self.arrays.items()}
        if self.pairs is not None:
            header["num_scales"] = self.pairs.num_scales
            arrays |= {f"pairs/{name}": getattr(self.pairs, name) for name in ("pairs", "generated", "real")}
        with atomic.writing(path, error=DataError) as file:
            np.savez(
                file, header=np.array(json.dumps(header)), rows=np.array(self.rows, np.int64),
                hashes=np.array(self.hashes), **arrays,
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> AnnotationTable:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: If the file is missing or damaged.
        """
        with _reading(path) as file:
            header = json.loads(str(file["header"]))
            arrays = {name: file[name] for name in file.files}
            parts = {name.removeprefix("pairs/"): arrays[name] for name in arrays if name.startswith("pairs/")}
            return cls(
                header["modality"],
                arrays["rows"].tolist(),
                arrays["hashes"].tolist(),
                header["texts"],
                {name.removeprefix("array/"): array for name, array in arrays.items() if name.startswith("array/")},
                tuple(header["targets"]),
                tuple(header["judged"]),
                PairSimilarities(**parts, num_scales=header["num_scales"]) if parts else None,
                read_fields(header.get("fields"), str(path)),
                tuple(header.get("judged_fields", ())),
            )


def stored_fields(fields: Fields) -> dict[str, Any]:
    """Fields as JSON."""
    return to_dict(RecordConfig(fields=dict(fields)))["fields"] if fields else {}


def read_fields(stored: dict[str, Any] | None, source: str) -> Fields:
    """Read what :func:`stored_fields` gave; none of tables from before there were any."""
    return from_dict(RecordConfig, {"fields": stored}, source=source).fields if stored else {}


@dataclass(frozen=True)
class StudyTable:
    """The held-out studies, as far as scoring needs them."""

    ids: list[str]
    patients: list[str]
    places: list[int]  # index of each in the dataset
    modalities: list[frozenset[str]]  # names of each one's modalities
    truth: np.ndarray  # float32 `[N, 14]` of 0, 1, NaN
    sides: np.ndarray  # true sides, int8 `[N, 14]`, see `side_codes`
    fields: Fields = field(default_factory=dict)  # that some record has
    # modality -> values of its records, float64 `[N, F]`: see `encoded_records`
    records: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def having(self, modalities: Sequence[str]) -> list[int]:
        """Rows of the studies that have all of the modalities."""
        return [row for row, present in enumerate(self.modalities) if set(modalities) <= present]

    def save(self, path: Path) -> None:
        """Write the table to one file, atomically."""
        header = {
            "ids": self.ids,
            "patients": self.patients,
            "places": self.places,
            "modalities": [sorted(names) for names in self.modalities],
            **({"fields": stored_fields(self.fields)} if self.fields else {}),
        }
        records: dict[str, Any] = {f"{_RECORDS}{name}": values for name, values in self.records.items()}
        with atomic.writing(path, error=DataError) as file:
            np.savez(file, header=np.array(json.dumps(header)), truth=self.truth, sides=self.sides, **records)

    @classmethod
    def load(cls, path: Path) -> StudyTable:
        """Read what :meth:`save` wrote."""
        with _reading(path) as file:
            header = json.loads(str(file["header"]))
            header["modalities"] = [frozenset(names) for names in header.pop("modalities")]
            header["fields"] = read_fields(header.get("fields"), str(path))
            records = {name.removeprefix(_RECORDS): file[name] for name in file.files if name.startswith(_RECORDS)}
            return cls(**header, truth=file["truth"], sides=file["sides"], records=records)


class Annotations:
    """All annotations of an evaluation; tables are read when they are needed.

    Attributes:
        folder: Where they are stored.
        metadata: ``protocol`` (the head of ``results.json``), ``systems`` (name -> description, and per direction the rows that were
            ``given`` and are ``scored``), ``excluded``, ``geometry`` (pair of views -> attributes that count), ``scored_sha256``.
        studies: The held-out studies.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder of annotations.

        Raises:
            DataError: If it is missing or damaged.
        """
        self.folder = folder
        try:
            self.metadata: dict[str, Any] = parse_json((folder / METADATA).read_bytes(), str(folder / METADATA))
            systems = dict(self.metadata["systems"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise _unreadable(folder / METADATA, error) from None
        for name in systems:
            if not stays_inside(name):
                raise _unreadable(folder / METADATA, ValueError(f"{name!r} names no folder in it"))
        self.studies = StudyTable.load(folder / STUDIES)

    def directions(self, system: str) -> dict[Direction, dict[str, Any]]:
        """The directions of a system, each with its ``given`` and ``scored`` rows."""
        stored = self.metadata["systems"][system]["directions"]
        return {Direction.parse(text): rows for text, rows in stored.items()}

    def generated(self, system: str, direction: Direction, target: str) -> AnnotationTable:
        """The table of one target."""
        return AnnotationTable.load(table_path(self.folder, system, direction, target))

    def real(self, modality: str) -> AnnotationTable | None:
        """The table of the real contents; None if they were not annotated."""
        path = real_path(self.folder, modality)
        return AnnotationTable.load(path) if path.is_file() else None


def table_path(folder: Path, system: str, direction: Direction, target: str) -> Path:
    """The table of one target."""
    return folder / "systems" / system / direction_folder(direction) / f"{target}.npz"


def real_path(folder: Path, modality: str) -> Path:
    """The table of one modality's real contents."""
    return folder / REAL / f"{modality}.npz"


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """An open npz file; a file that is missing or damaged is refused by name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except _DAMAGED as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is missing or damaged: {error}",
        expected="a table of annotations, in a folder that all ranks see",
        fix="run the evaluation again; with several machines, choose an out that all of them share",
    )
