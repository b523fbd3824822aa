"""Source ``csv``: any table of paths and texts, one row an image or one row a study."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path

from medcodi.config import config
from medcodi.data.dataset import SPLIT_NAMES
from medcodi.data.reports import compose_report
from medcodi.data.sources.record import LeftOut, Record, second_images
from medcodi.errors import DataError, did_you_mean, one_of
from medcodi.modality import modality_of_view, names
from medcodi.study import CHEXPERT_LABELS

# What a column means -> names it usually has, the first that is there is taken.
_USUAL: dict[str, tuple[str, ...]] = {
    "study_id": ("study_id", "study", "StudyInstanceUID", "uid", "id"),
    "patient_id": ("patient_id", "subject_id", "patient", "PatientID"),
    "image": ("image", "image_path", "path", "file", "filename", "dicom_path"),
    "view": ("view", "view_position", "ViewPosition", "view_group"),
    **{name: (name, f"{name}_path") for name in names("image")},
    "report": ("report", "text"),
    "findings": ("findings",),
    "impression": ("impression",),
    "split": ("split",),
    "sex": ("sex", "gender"),
    "age": ("age",),
}


@config
class CsvConfig:
    """Options of source ``csv``.

    Attributes:
        path: The table; comma, semicolon or tab between columns.
        root: Folder that image paths start from; None: the table's.
        columns: Meaning -> column, e.g. ``{image: file, view: view_group}``; null: not used. What is not named is found by
            its usual names. Meanings: study_id, patient_id, image and view (one row an image), frontal, lateral (one row a
            study), report or findings and impression, split, sex, age. Columns with CheXpert's names are labels.
    """

    path: str
    root: str | None = None
    columns: dict[str, str | None] = field(default_factory=dict)


def records(options: CsvConfig) -> Iterator[Record]:
    """Studies in the order of their first rows.

    Raises:
        DataError: If the table cannot be read, a named column is not there, or nothing in it can be used.
    """
    path = Path(options.path)
    header, rows = _read(path)
    columns = _columns(options.columns, header, path)
    root = Path(options.root) if options.root else path.parent
    found: dict[str, Record] = {}
    for number, row in enumerate(rows, start=2):
        one = _record(row, number, columns, root)
        found[one.study_id] = (
            _joined(found[one.study_id], one, by_study="image" not in columns) if one.study_id in found else one
        )
    yield from found.values()


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.is_file():
        raise DataError(f"no table at {path}", expected="a CSV file", fix="check path=")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})", fix="save it as UTF-8") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=separator, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}", expected="a CSV table", fix="correct the line"
        ) from None
    header = list(reader.fieldnames or [])
    if not header or not rows:
        raise DataError(f"{path} holds no rows", expected="a header and at least one row")
    return header, rows


def _columns(named: Mapping[str, str | None], header: list[str], path: Path) -> dict[str, str]:
    """Meaning -> column that is there."""
    for meaning, column in named.items():
        one_of("meaning of a column", meaning, _USUAL, DataError)
        if column is not None and column not in header:
            raise DataError(
                f"{path} has no column {column!r} (for {meaning})",
                expected="a column of the table",
                fix=did_you_mean(column, header),
            )
    columns = {}
    for meaning, usual in _USUAL.items():
        column = named[meaning] if meaning in named else next((name for name in usual if name in header), None)
        if column is not None:
            columns[meaning] = column
    contents = {"image", "report", "findings", "impression", *names("image")}
    if not contents & set(columns):
        raise DataError(
            f"{path} has no column of images or reports among {', '.join(header)}",
            expected="one of " + ", ".join(sorted(contents)),
            fix="say which, e.g. options.columns.image=file",
        )
    if "image" in columns and "view" not in columns:
        raise DataError(
            f"{path} has images in {columns['image']!r}, but no column of views",
            expected="a view for each image",
            fix="options.columns.view=...",
        )
    return columns


def _record(row: Mapping[str, str], number: int, columns: Mapping[str, str], root: Path) -> Record:
    def cell(meaning: str) -> str:
        return (row.get(columns[meaning]) or "").strip() if meaning in columns else ""

    study_id = cell("study_id") or f"row-{number}"
    images = {name: root / cell(name) for name in names("image") if cell(name)}
    refused = None
    if cell("image"):
        view = modality_of_view(cell("view"))
        if view is None:
            refused = LeftOut(
                file=cell("image"),
                reason="unknown view",
                detail=f"row {number}: view {cell('view')!r} is none of those known",
                view=cell("view"),
            )
        else:
            images[view] = root / cell("image")
    text = cell("report") or compose_report(cell("findings"), cell("impression"))
    split = cell("split").lower()
    if split and split not in SPLIT_NAMES:
        raise DataError(
            f"row {number}: split {cell('split')!r}",
            expected=", ".join(SPLIT_NAMES),
            fix="correct it, or options.columns.split=null for splits of our own",
        )
    labels = {label: value for label in CHEXPERT_LABELS if (value := _label(row.get(label))) is not None}
    metadata = {name: cell(name) for name in ("sex", "age", "view") if cell(name)}
    return Record(
        study_id=study_id,
        patient_id=cell("patient_id") or study_id,
        split=SPLIT_NAMES[split] if split else None,
        images=images,
        texts={names("text")[0]: text} if text else {},
        views={name: cell("view") for name in images if cell("image")},
        labels=labels,
        metadata={**metadata, "source": "csv"},
        refused=refused,
    )


def _label(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if value in (-1.0, 0.0, 1.0) else None


def _joined(old: Record, new: Record, *, by_study: bool) -> Record:
    """Two rows of one study as one record."""
    if new.patient_id != old.patient_id:
        detail = f"study {old.study_id!r} is of patients {old.patient_id!r} and {new.patient_id!r}"
        return replace(old, refused=LeftOut(file=old.study_id, reason="two patients", detail=detail))
    if by_study:
        spare = LeftOut(
            file=old.study_id,
            reason="duplicate study",
            detail=f"study {old.study_id!r} stands in several rows; the first counts",
        )
        return replace(old, spare=(*old.spare, spare))
    return replace(
        old,
        images={**new.images, **old.images},
        texts={**new.texts, **old.texts},
        views={**new.views, **old.views},
        labels={**new.labels, **old.labels},
        refused=old.refused or new.refused,
        spare=(*old.spare, *second_images(old, new)),
    )
