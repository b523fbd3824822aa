"""Source ``csv``: any table of paths and texts, one row an image or one row a study."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from itertools import islice
from pathlib import Path

from medcodi.config import config
from medcodi.data.dataset import SPLIT_NAMES
from medcodi.data.reports import compose_report
from medcodi.data.sources.detection import table_at
from medcodi.data.sources.record import TWO_PATIENTS, LeftOut, Record, check_patients, second_images, two_patients
from medcodi.data.tables import TableRow, is_absent, read_header, read_rows, text_of_cell
from medcodi.data.views import view_of
from medcodi.errors import DataError, did_you_mean, one_of
from medcodi.modality import names
from medcodi.record import CLINICAL_RECORD, FieldConfig
from medcodi.study import CHEXPERT_LABELS

# Meaning of a column -> names it usually has, compared without case, spaces and underscores; the first match is taken.
_USUAL: dict[str, tuple[str, ...]] = {
    "study_id": ("study_id", "study", "StudyInstanceUID", "uid", "id"),
    "patient_id": ("patient_id", "subject_id", "patient", "subject", "person_id", "MRN", "case_id"),
    "image": ("image", "image_path", "path", "file", "filename", "dicom_path", "image_id", "image_index"),
    "view": ("view", "view_position", "view_group", "projection"),
    **{name: (name, f"{name}_path") for name in names("image")},
    "report": ("report", "text"),
    "findings": ("findings",),
    "impression": ("impression",),
    "split": ("split",),
    "sex": ("sex", "gender", "patient_sex", "patient_gender"),
    "age": ("age", "patient_age"),
}
_ROWS_TO_LOOK_AT = 50  # of a table, for a fix
FIELD = "record."  # start of the meanings that fill a record
_SYNTHESIZED = {"study_id", "direction", "seed", "model_sha256"}  # results of `medcodi synthesize`: no patient exists


@config
class CsvConfig:
    r"""Options of source ``csv``.

    Attributes:
        path: The table; comma, semicolon or tab between columns. Of a folder, its only table.
        root: Folder that image paths start from; None: the table's.
        columns: Meaning -> column, e.g. ``{image: file, view: view_group}``; null: not used. A meaning not named here is looked up by
            its usual names. Meanings: study_id, patient_id, image and view (one row an image), frontal, lateral (one row a
            study), report or findings and impression, split, sex, age. ``record.FIELD`` fills a field of the record:
            ``{record.age: PatientAge}``. Columns with CheXpert's names are labels.
        fields: Further fields of the record: ``{troponin: {low: 0.1, high: 50000, unit: ng/L, scale: log}}``.
        patient_pattern: Regular expression that finds the patient in a row's image path, by its first group:
            ``"(patient\d+)"`` for CheXpert's tables.
        study_is_patient: Each study is a patient of its own: for tables that truly have no patient with two studies.
    """

    path: str
    root: str | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    fields: dict[str, FieldConfig] = field(default_factory=dict)
    patient_pattern: str | None = None
    study_is_patient: bool = False

    def __post_init__(self) -> None:
        if self.patient_pattern is not None:
            try:
                num_groups = re.compile(self.patient_pattern).groups
            except re.error as error:
                raise ValueError(f"patient_pattern is {self.patient_pattern!r}: {error}") from None
            if num_groups != 1:
                raise ValueError(f"patient_pattern is {self.patient_pattern!r}, expected one group: '(patient\\d+)'")


def records(options: CsvConfig) -> Iterator[Record]:
    """Studies in the order of their first rows.

    Raises:
        DataError: If the table cannot be read, a named column is missing, nothing in it can be used, or it does not say
            which patient a study is of.
    """
    path = table_at(Path(options.path))
    header = read_header(path)
    if set(header) >= _SYNTHESIZED:
        defaults = _columns_of_synthesis(header, options.study_is_patient)
        options = replace(options, columns={**defaults, **options.columns})
    columns = _columns(options, header, path)
    if "patient_id" not in columns and set(header) >= _SYNTHESIZED:
        options = replace(options, study_is_patient=True)
    _check_patients(options, columns, path)
    root = Path(options.root) if options.root else path.parent
    # Rows of one study are joined, in the order of first appearance.
    studies: dict[str, Record] = {}
    for row in read_rows(path):
        if set(header) >= _SYNTHESIZED:  # our own table, whose texts may be guarded from spreadsheets
            row = replace(row, cells={column: text_of_cell(cell) for column, cell in row.cells.items()})
        record = _record(row, columns, root, options)
        known = studies.get(record.study_id)
        studies[record.study_id] = record if known is None else _joined(known, record, by_study="image" not in columns)
    if "patient_id" in columns and not options.study_is_patient:
        check_patients(list(studies.values()), str(path), columns["patient_id"], "options.study_is_patient=true")
    yield from studies.values()


def _columns_of_synthesis(header: list[str], study_is_patient: bool) -> dict[str, str | None]:
    """Columns of the results of a synthesis: "report" holds a file, and samples of one row of its manifest are one patient."""
    texts: dict[str, str | None] = {name: f"{name}_text" for name in names("text") if f"{name}_text" in header}
    own = {_key(name) for name in header} & {_key(name) for name in _USUAL["patient_id"]}  # copied by --keep
    return texts if own or study_is_patient or "id" not in header else {**texts, "patient_id": "id"}


def _check_patients(options: CsvConfig, columns: Mapping[str, str], path: Path) -> None:
    """Without patients, studies of one patient would come into several splits: never silently."""
    if "patient_id" in columns or options.patient_pattern or options.study_is_patient:
        return
    header = read_header(path)
    column = next((name for name in header if re.search("patient|subject|person|mrn|case", name, re.IGNORECASE)), None)
    by_path = _column_whose_cells(path, lambda cell: re.search(r"patient\d+", cell) is not None) is not None
    fixes = [f"options.columns.patient_id={column or 'COLUMN'}"] if column or not by_path else []
    if by_path or not column:
        fixes.append(
            "options.patient_pattern='(patient\\d+)'" + ("" if by_path else " where the image path names the patient")
        )
    raise DataError(
        f"{path} has no column of patients: its columns are {', '.join(header)}",
        expected=f"the patient of each study ({', '.join(_USUAL['patient_id'])}), so that no patient comes into two splits",
        fix="; or ".join([*fixes, "options.study_is_patient=true if no patient has two studies"]),
    )


def _column_whose_cells(path: Path, fits: Callable[[str], bool]) -> str | None:
    """The first column most of whose filled cells fit, in the first rows of a table: what a user probably meant."""
    rows = [row.cells for row in islice(read_rows(path), _ROWS_TO_LOOK_AT)]
    for column in rows[0]:
        cells = [row[column] for row in rows if not is_absent(row[column])]
        if cells and sum(map(fits, cells)) > 0.8 * len(cells):
            return column
    return None


def _is_image(cell: str) -> bool:
    return cell.lower().endswith((".png", ".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"))


def _columns(options: CsvConfig, header: list[str], path: Path) -> dict[str, str]:
    """Meaning -> column that is there."""
    named = options.columns
    fields = [f"{FIELD}{name}" for name in (*CLINICAL_RECORD.fields, *options.fields)]
    # Columns that the user names must exist.
    for meaning, column in named.items():
        one_of("meaning of a column", meaning, fields if meaning.startswith(FIELD) else _USUAL, DataError)
        if column is not None and column not in header:
            raise DataError(
                f"{path} has no column {column!r} (for {meaning})",
                expected="a column of the table",
                fix=did_you_mean(column, header),
            )
    # The others are looked up by their usual names; the leftmost match is taken.
    known = {_key(name): name for name in reversed(header)}
    columns = {meaning: column for meaning, column in named.items() if column is not None and meaning in fields}
    for meaning, usual in _USUAL.items():
        column = (
            named[meaning]
            if meaning in named
            else next((known[_key(name)] for name in usual if _key(name) in known), None)
        )
        if column is not None:
            columns[meaning] = column
    contents = {"image", "report", "findings", "impression", *names("image")}
    if not contents & set(columns):
        column = _column_whose_cells(path, _is_image)
        raise DataError(
            f"{path} has no column of images or reports: its columns are {', '.join(header)}",
            expected="one of " + ", ".join(sorted(contents)),
            fix=f"options.columns.image={column}" if column else "say which: options.columns.report=COLUMN, for one",
        )
    if "image" in columns and "view" not in columns:
        image = columns["image"]
        column = _column_whose_cells(path, lambda cell: view_of(cell, position=True).modality is not None)
        raise DataError(
            f"{path} has images in {image!r}, but no column of views: its columns are {', '.join(header)}",
            expected="a view for each image",
            fix=f"options.columns.view={column}"
            if column
            else f"options.columns.view=COLUMN; or, if all are frontal views, options.columns.frontal={image} options.columns.image=null",
        )
    return columns


def _key(name: str) -> str:
    """A column's name without case, spaces, underscores and points."""
    return re.sub(r"[\s_.-]+", "", name).lower()


def _record(row: TableRow, columns: Mapping[str, str], root: Path, options: CsvConfig) -> Record:
    number = row.line

    def written(meaning: str) -> str:
        return row.cells[columns[meaning]] if meaning in columns else ""

    def cell(meaning: str) -> str:
        return "" if is_absent(written(meaning)) else written(meaning)

    study_id = cell("study_id") or f"row-{number}"
    # One column for each view, or one image column with its view beside it.
    images = {name: root / cell(name) for name in names("image") if cell(name)}
    refused = None
    if cell("image"):
        view = view_of(cell("view"), position=True).modality
        if view is None:
            refused = LeftOut(
                file=cell("image"),
                reason="unknown view",
                detail=f"line {number}: view {cell('view')!r} is none of those used",
                view=cell("view"),
            )
        else:
            images[view] = root / cell("image")
    # A whole report, or its sections.
    text = cell("report") or compose_report(cell("findings"), cell("impression"))
    split = cell("split").lower()
    if split and split not in SPLIT_NAMES:
        raise DataError(
            f"{options.path}, line {number}: split {cell('split')!r}",
            expected=", ".join(SPLIT_NAMES),
            fix="correct it, or options.columns.split=null for splits of our own",
        )
    labels = {label: value for label in CHEXPERT_LABELS if (value := _label(row.cells.get(label))) is not None}
    invalid = [label for label in CHEXPERT_LABELS if label not in labels and not is_absent(row.cells.get(label) or "")]
    metadata = {name: cell(name) for name in ("sex", "age", "view") if cell(name)}
    return Record(
        study_id=study_id,
        patient_id=cell("patient_id") or _patient(row, study_id, columns, options),
        split=SPLIT_NAMES[split] if split else None,
        images=images,
        texts={names("text")[0]: text} if text else {},
        views={name: cell("view") for name in images if cell("image")},
        labels=labels,
        values={meaning.removeprefix(FIELD): cell(meaning) for meaning in columns if meaning.startswith(FIELD)},
        fields=options.fields,
        metadata={**metadata, "source": "synthesize" if set(row.cells) >= _SYNTHESIZED else "csv"},
        refused=refused,
        spare=tuple(
            LeftOut(
                file=f"{study_id}:{name}", reason="report: absent", detail=f"line {number}: {name} is {written(name)!r}"
            )
            for name in ("report", "findings", "impression")
            if written(name) and not cell(name)
        )
        + tuple(
            LeftOut(
                file=f"{study_id}:{label}",
                reason="label: invalid value",
                detail=f"line {number}: {label} is {row.cells[label][:40]!r}, expected 1, 0, -1 or nothing",
            )
            for label in invalid
        ),
    )


def _patient(row: TableRow, study_id: str, columns: Mapping[str, str], options: CsvConfig) -> str:
    """The patient of a row without an identifier: from the image's path, or the study itself where that is said."""
    # Only image paths can name the patient.
    paths = [row.cells[columns[name]] for name in ("image", *names("image")) if name in columns]
    if options.patient_pattern:
        match = next(filter(None, (re.search(options.patient_pattern, path) for path in paths)), None)
        if match is not None and match.group(1):
            return match.group(1)
    elif options.study_is_patient:
        return study_id
    where = (
        f"none matches patient_pattern {options.patient_pattern!r}" if options.patient_pattern else "the cell is empty"
    )
    raise DataError(
        f"{options.path}, line {row.line}: no patient ({where})",
        expected="the patient of each study, so that no patient comes into two splits",
        fix="fill the cell, correct options.patient_pattern, or options.study_is_patient=true for rows without a patient",
    )


def _label(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if value in (-1.0, 0.0, 1.0) else None


def _joined(old: Record, new: Record, *, by_study: bool) -> Record:
    """Two rows of one study as one record."""
    # One study of two patients is a fault of the table: left out.
    if new.patient_id != old.patient_id:
        return replace(old, refused=two_patients(old, new))
    # One row a study: a second row is a duplicate.
    if by_study:
        spare = LeftOut(
            file=old.study_id,
            reason="duplicate study",
            detail=f"study {old.study_id!r} appears in several rows; the first is used",
        )
        return replace(old, spare=(*old.spare, spare))
    # An image that cannot be used is left out alone where another can be used.
    if old.refused is not None and new.refused is None and old.refused.reason != TWO_PATIENTS:
        old, new = new, old
    unusable = () if new.refused is None else (new.refused,)
    return replace(
        old,
        images={**new.images, **old.images},
        texts={**new.texts, **old.texts},
        views={**new.views, **old.views},
        labels={**new.labels, **old.labels},
        values={**new.values, **{name: value for name, value in old.values.items() if value}},
        split=old.split or new.split,
        spare=(*old.spare, *new.spare, *unusable, *second_images(old, new), *_differing(old, new)),
    )


def _differing(old: Record, new: Record) -> list[LeftOut]:
    """What two rows of one study say differently: the first row counts.

    Raises:
        DataError: If they name two splits.
    """
    if old.split and new.split and old.split != new.split:
        raise DataError(
            f"study {old.study_id!r} is in two splits, {old.split!r} and {new.split!r}",
            expected="all rows of a study in one split",
            fix="correct the split, or options.columns.split=null for splits of our own",
        )
    pairs = [("report", old.texts, new.texts), ("label", old.labels, new.labels), ("record", old.values, new.values)]
    return [
        LeftOut(
            file=f"{old.study_id}:{name}",
            reason=f"second {what}",
            detail=f"study {old.study_id!r} has another {name} already: {str(before[name])[:60]!r}, then {str(after[name])[:60]!r}",
        )
        for what, before, after in pairs
        for name in before.keys() & after.keys()
        if before[name] != after[name] and "" not in (before[name], after[name])
    ]
