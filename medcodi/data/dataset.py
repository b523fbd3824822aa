"""Prepared studies on disk: a memory-mapped Arrow table per split, one row per study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from medcodi.data.files import FIX, INFO_FILE, arrow_files, fetched, info_from_text, is_url, remote_info
from medcodi.errors import DataError, did_you_mean
from medcodi.modality import MODALITIES, names
from medcodi.record import Record
from medcodi.storage.checked_json import foreign, parse_json
from medcodi.study import CHEXPERT_LABELS, Content, Finding, Study

SPLITS = ("train", "val", "test")
# How sources spell the splits.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
PHANTOMS_PER_SPLIT = 10_000_000  # each split of the phantom counts from its own multiple of this: never a common study


@runtime_checkable
class StudyDataset(Protocol):
    """Studies by index, all images of one size."""

    name: str
    image_size: int
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Study: ...


def row_from_study(study: Study, split: str) -> dict[str, Any]:
    """One table row: images as little-endian uint16 bytes, texts as they are, records as JSON, absent modalities None.

    Args:
        study: Its images already square and of the dataset's size.
        split: ``train``, ``val`` or ``test``.
    """
    from medcodi.data.images import to_uint16

    row: dict[str, Any] = {"study_id": study.study_id, "patient_id": study.patient_id, "split": split}
    for name, modality in MODALITIES.items():
        value = study.contents.get(name)
        if value is None and not modality.standard:
            continue  # so that rows of the standard modalities keep their hashes
        if isinstance(value, np.ndarray):
            row[name] = to_uint16(value).astype("<u2").tobytes()
        else:
            row[name] = json.dumps(value) if isinstance(value, Mapping) else value
    # Labels in the order of CHEXPERT_LABELS; NaN: unknown.
    row["labels"] = np.array([study.labels.get(label, np.nan) for label in CHEXPERT_LABELS], dtype=np.float32)
    row["findings"] = json.dumps([asdict(finding) for finding in study.findings])
    row["metadata"] = json.dumps(dict(study.metadata), sort_keys=True, default=str)
    return row


@foreign("the dataset's row", expected="a study as 'data prepare' wrote it", fix="prepare or fetch the dataset again")
def study_from_row(row: Any, image_size: int) -> Study:
    """The study of a one-row Arrow table written by :func:`row_from_study`; a value of another kind is a DataError."""
    from medcodi.data.images import from_uint16

    contents: dict[str, Content] = {}
    for name, modality in MODALITIES.items():
        scalar = row.column(name)[0] if name in row.column_names else None
        if scalar is None or not scalar.is_valid:
            continue
        if modality.kind == "text":
            contents[name] = scalar.as_py()
        elif modality.kind == "table":
            contents[name] = json.loads(scalar.as_py())
        else:
            # A view of the mapped file: nothing is copied before the conversion to float.
            pixels = np.frombuffer(scalar.as_buffer(), dtype="<u2").reshape(image_size, image_size)
            contents[name] = from_uint16(pixels)
    labels = np.asarray(row.column("labels")[0].as_py(), dtype=np.float32)
    return Study(
        study_id=row.column("study_id")[0].as_py(),
        patient_id=row.column("patient_id")[0].as_py(),
        contents=contents,
        labels={name: float(value) for name, value in zip(CHEXPERT_LABELS, labels, strict=True) if not np.isnan(value)},
        findings=tuple(Finding(**finding) for finding in json.loads(row.column("findings")[0].as_py())),
        metadata=json.loads(row.column("metadata")[0].as_py()),
    )


class ArrowStudies:
    """One split of a prepared folder; rows stay on disk until asked for. Satisfies :class:`StudyDataset`."""

    def __init__(self, folder: Path, split: str, info: dict[str, Any]) -> None:
        """Map the files.

        Raises:
            DataError: If there are not as many studies as the ledger counts, or a file is missing or cut short.
        """
        from datasets import Dataset, concatenate_datasets

        self.name = f"{info['name']}/{split}"
        self.split = split
        self.image_size = int(info["image_size"])
        self.fingerprint = f"{info['fingerprint']}/{split}"
        # Map every file of the split; rows are read when they are asked for.
        parts = [Dataset.from_file(str(file)) for file in arrow_files(folder, split, info)]
        self._rows = concatenate_datasets(parts).with_format("arrow")
        _check_counts(folder, split, info, len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Study:
        if not -len(self) <= index < len(self):
            raise IndexError(f"study {index} of {len(self)}")
        return study_from_row(self._rows[int(index) % len(self)], self.image_size)

    def study_id(self, index: int) -> str:
        """The identifier of one study; nothing else of it is read."""
        return self._rows.data.column("study_id")[index].as_py()

    def report(self, index: int) -> str | None:
        """The report of one study; nothing else of it is read."""
        return self._rows.data.column("report")[index].as_py()

    def record(self, index: int) -> Record | None:
        """The record of one study, or None; nothing else of it is read."""
        return next(iter(self.tables(index).values()), None)

    def tables(self, index: int) -> dict[str, Record]:
        """Modality of kind table -> its values, of one study; nothing else of it is read."""
        columns = [name for name in names("table") if name in self._rows.column_names]
        texts = {name: self._rows.data.column(name)[index].as_py() for name in columns}
        return {name: json.loads(text) for name, text in texts.items() if text is not None}

    def modality_counts(self, num_studies: int | None = None) -> dict[str, int]:
        """Modality -> number of the first ``num_studies`` studies (None: all) that hold it. No image is read."""
        table = self._rows.data.slice(0, num_studies)
        columns = {name: table.column(name) for name in MODALITIES if name in table.column_names}
        return {name: len(column) - column.null_count for name, column in columns.items()}

    def positive_labels(self, num_studies: int | None = None) -> tuple[str, ...]:
        """The labels that at least one of the first ``num_studies`` studies (None: all) has; no image is read."""
        from pyarrow import compute

        labels = compute.list_flatten(self._rows.data.slice(0, num_studies).column("labels")).to_numpy()  # pyright: ignore
        positive = (labels.reshape(-1, len(CHEXPERT_LABELS)) == 1).any(axis=0)
        return tuple(name for name, has in zip(CHEXPERT_LABELS, positive, strict=True) if has)

    def num_labelled(self) -> int:
        """Number of studies with at least one known label. No image is read."""
        rows = self._rows.data.column("labels").to_pylist()
        return sum(any(value is not None and value == value for value in labels) for labels in rows)

    def contents(self) -> list[tuple[str, str, frozenset[str]]]:
        """(study id, patient id, modalities that it holds) of every study, in order; no image is read."""
        table = self._rows.data
        present = {name: table.column(name).is_valid().to_pylist() for name in MODALITIES if name in table.column_names}
        ids = zip(table.column("study_id").to_pylist(), table.column("patient_id").to_pylist(), strict=True)
        return [
            (study, patient, frozenset(name for name, valid in present.items() if valid[row]))
            for row, (study, patient) in enumerate(ids)
        ]


def read_study(dataset: StudyDataset, index: int) -> Study:
    """A study of a dataset.

    Raises:
        DataError: If it cannot be read; names it.
    """
    try:
        return dataset[index]
    except Exception as error:
        study_id = getattr(dataset, "study_id", None)
        name = f"{study_id(index)!r} " if study_id else ""
        known = error if isinstance(error, DataError) else None
        reason = known.failed if known else f"{type(error).__name__}: {error}"
        raise DataError(
            f"study {name}(number {index} of {dataset.name}) cannot be read: {reason}",
            expected=(known and known.expected) or "the study as it was prepared",
            fix=(known and known.fix) or "copy the dataset again, or prepare it again",
        ) from error


class FirstStudies:
    """The first studies of another dataset. Satisfies :class:`StudyDataset`."""

    def __init__(self, dataset: StudyDataset, num_studies: int) -> None:
        if num_studies > len(dataset):
            raise DataError(
                f"{dataset.name} holds {len(dataset)} studies, num_studies is {num_studies}",
                expected="no more than there are",
                fix=f"num_studies={len(dataset)}, or leave it out",
            )
        self.name = dataset.name
        self.image_size = dataset.image_size
        self.fingerprint = f"{dataset.fingerprint}[:{num_studies}]"
        self._dataset, self._num_studies = dataset, num_studies
        if isinstance(dataset, ArrowStudies):
            self.study_id, self.report, self.record = dataset.study_id, dataset.report, dataset.record
            self.tables = dataset.tables
            self.modality_counts = partial(dataset.modality_counts, num_studies)
            self.positive_labels = partial(dataset.positive_labels, num_studies)
            self.contents = lambda: dataset.contents()[:num_studies]

    def __len__(self) -> int:
        return self._num_studies

    def __getitem__(self, index: int) -> Study:
        if not -len(self) <= index < len(self):
            raise IndexError(f"study {index} of {len(self)}")
        return self._dataset[int(index) % len(self)]


def read_info(path: str | Path) -> dict[str, Any]:
    """Read the description of a prepared folder, which ``data prepare`` wrote, here or at a URL.

    Raises:
        DataError: If the folder is missing or was not made by ``medcodi data prepare``.
    """
    if is_url(path):
        return remote_info(str(path))
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"no dataset folder at {folder}", expected="a prepared folder", fix=FIX)
    try:
        text = (folder / INFO_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    return info_from_text(text, str(folder))


def open_dataset(path: str | Path, split: str) -> ArrowStudies:
    """Open one split of a folder made by ``medcodi data prepare``, memory-mapped.

    Args:
        path: The folder, or a URL that fsspec reads (``s3://...``): its files are copied to the cache folder
            once, and mapped from there.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DataError: If there is no such folder or split, the files cannot be read, or the ledger disagrees.
    """
    info = read_info(path)
    # Splits with at least one study.
    sizes = {name: int(count) for name, count in info["counts"]["split"].items() if count}
    if split not in sizes:
        available = ", ".join(f"{name} ({count})" for name, count in sizes.items()) or "none"
        raise DataError(
            f"{path} has no studies in split {split!r}", expected=f"one of: {available}", fix=did_you_mean(split, sizes)
        )
    # Files behind a URL are copied once, then mapped like local ones.
    folder = fetched(str(path), info, split) if is_url(path) else Path(path)
    try:
        return ArrowStudies(folder, split, info)
    except DataError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / split} cannot be read: {error}",
            expected="the files as written",
            fix="prepare the dataset again",
        ) from error


def _check_counts(folder: Path, split: str, info: dict[str, Any], num_rows: int) -> None:
    """Refuse unless the ledger, the description and the files give the same number of studies."""
    try:
        in_ledger = int(parse_json((folder / "ledger.json").read_bytes(), "ledger.json")["split"].get(split, 0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / 'ledger.json'} cannot be read ({type(error).__name__})",
            expected="the ledger that 'data prepare' wrote",
            fix="copy the whole folder again, or prepare it again",
        ) from None
    # Three places state the number of studies: they must agree.
    counts = {"the ledger": in_ledger, INFO_FILE: info["counts"]["split"].get(split, 0), "the files": num_rows}
    if len(set(counts.values())) > 1:
        raise DataError(
            f"{folder}, split {split!r}: " + ", ".join(f"{name} has {num:,} studies" for name, num in counts.items()),
            expected="the same number in all three",
            fix="copy the whole folder again, or prepare it again",
        )
