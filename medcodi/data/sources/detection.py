"""Sources recognised: a table, a folder with one table, or DICOM files; and which column of a table has which meaning.

Anything else is refused with what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field
from itertools import islice
from pathlib import Path

from medcodi.config import config
from medcodi.data.dicom.views import view_of
from medcodi.data.image_files import DICOM_SUFFIXES, IMAGE_SUFFIXES, is_dicom
from medcodi.data.tables import is_absent, read_rows
from medcodi.errors import DataError, did_you_mean, one_of
from medcodi.modality import names
from medcodi.record import CLINICAL_RECORD, FieldConfig
from medcodi.study import CHEXPERT_LABELS

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz")
TABLE_FIX = (
    "write a table beside them (study_id, patient_id, frontal, lateral, report); 'medcodi data sample sample' shows one"
)


def source_of(path: Path) -> tuple[str, Path]:
    """Kind of source of a table or folder, and the path that it reads.

    Raises:
        DataError: If the path does not exist, or it is not clear what is in it.
    """
    if not path.exists():
        raise DataError(
            f"there is nothing at {path}",
            expected="a prepared dataset, a table (CSV, TSV), or a folder of studies",
            fix="check the path; 'medcodi data sample sample' writes studies to try the command with",
        )
    if path.is_file() and not path.name.lower().endswith(TABLE_SUFFIXES):
        raise DataError(
            f"{path} is no table", expected="a CSV or TSV file, or a folder", fix="give the folder it is in"
        )
    # A table; else DICOM files, whose tags say what a table would.
    if path.is_dir() and not tables_in(path) and any(is_dicom(file) for file in _files(path)):
        return "dicom", path
    return "csv", table_at(path)


def table_at(path: Path) -> Path:
    """The table: a file itself, or the only one of a folder.

    Raises:
        DataError: If a folder holds several tables, or none.
    """
    if not path.is_dir():
        return path
    tables = tables_in(path)
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise DataError(
            f"{path} holds {len(tables)} tables: {', '.join(file.name for file in tables[:5])}",
            expected="one table of studies",
            fix=f"name the one you mean, such as {tables[0]}",
        )
    num_images = sum(file.name.lower().endswith(IMAGE_SUFFIXES) for file in _files(path))
    if num_images:
        raise DataError(
            f"{path} holds {num_images:,} images and no table: their views, patients and reports are not known",
            expected="a table of studies, or DICOM files, whose tags say it",
            fix=TABLE_FIX,
        )
    raise DataError(f"{path} holds neither a table nor images", expected="a folder of studies", fix=TABLE_FIX)


def tables_in(folder: Path) -> list[Path]:
    """The tables of a folder, by name; not those of folders in it."""
    return [file for file in sorted(folder.iterdir()) if file.is_file() and file.name.lower().endswith(TABLE_SUFFIXES)]


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


# ---- the columns of a table, of source csv ---------------------------------------------------------------------------
# Meaning of a column -> names it usually has, compared without case, spaces and underscores; the first match is taken.
USUAL: dict[str, tuple[str, ...]] = {
    "study_id": ("study_id", "study", "StudyInstanceUID", "accession_number", "exam_id", "exam", "uid", "id"),
    "patient_id": ("patient_id", "subject_id", "patient", "subject", "person_id", "MRN", "case_id"),
    "image": ("image", "image_path", "path", "file", "filename", "dicom_path", "image_id", "image_index"),
    "view": ("view", "view_position", "view_group", "projection"),
    **{name: (name, f"{name}_path") for name in names("image")},
    "report": ("report", "report_text", "text"),
    "findings": ("findings",),
    "impression": ("impression",),
    "split": ("split",),
    "sex": ("sex", "gender", "patient_sex", "patient_gender"),
    "age": ("age", "patient_age"),
    "labels": (),
}
_ROWS_TO_LOOK_AT = 50  # of a table, for a fix
FIELD = "record."  # start of the meanings that fill a record
SYNTHESIS_COLUMNS = {
    "study_id",
    "direction",
    "seed",
    "model_sha256",
}  # results of `medcodi synthesize`: no patient exists


@config
class CsvConfig:
    """Options of source ``csv``."""

    path: str  # The table; comma, semicolon or tab between columns. Of a folder, its only table
    root: str | None = None  # Folder that image paths start from; None: the table's
    # Meaning -> column, e.g. ``{image: file, view: view_group}``; null: not used. A meaning not named here is looked
    # up by its usual names. Meanings: study_id, patient_id, image and view (one row an image), frontal, lateral (one
    # row a study), report or findings and impression, split, sex, age, labels (their names, with ``|``, ``;`` or comma
    # between them). ``record.FIELD`` fills a field of the record: ``{record.age: PatientAge}``. Columns with
    # CheXpert's names are labels
    columns: dict[str, str | None] = field(default_factory=dict)
    # Fill the record from the columns that have the usual names of its fields (Patient Age, Sex ...) too
    record: bool = False
    # Further fields of the record: ``{troponin: {low: 0.1, high: 50000, unit: ng/L, scale: log}}``
    fields: dict[str, FieldConfig] = field(default_factory=dict)
    # Name in the column of labels -> CheXpert's name, or null for none (``{Effusion: Pleural Effusion}``); what a row
    # does not name is absent. Empty: the column holds CheXpert's names
    label_names: dict[str, str | None] = field(default_factory=dict)
    # Regular expression that finds the patient in a row's image path, by its first group: ``"(patient\d+)"`` for
    # CheXpert's tables
    patient_pattern: str | None = None
    study_pattern: str | None = None  # Likewise the study, by one or more groups: ``"(patient\d+)/(study\d+)"``
    # Each study is a patient of its own: for tables that truly have no patient with two studies
    study_is_patient: bool = False

    def __post_init__(self) -> None:
        for name, pattern in {"patient_pattern": self.patient_pattern, "study_pattern": self.study_pattern}.items():
            if pattern is None:
                continue
            try:
                num_groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"{name} is {pattern!r}: {error}") from None
            if num_groups < 1 or (num_groups > 1 and name == "patient_pattern"):
                raise ValueError(f"{name} is {pattern!r}, expected one group: '(patient\\d+)'")
        for label in filter(None, self.label_names.values()):
            one_of("label", label, CHEXPERT_LABELS, DataError)


def column_whose_cells(path: Path, fits: Callable[[str], bool]) -> str | None:
    """The first column most of whose filled cells fit, in the first rows of a table: what a user probably meant."""
    rows = [row.cells for row in islice(read_rows(path), _ROWS_TO_LOOK_AT)]
    for column in rows[0]:
        cells = [row[column] for row in rows if not is_absent(row[column])]
        if cells and sum(map(fits, cells)) > 0.8 * len(cells):
            return column
    return None


def _is_image(cell: str) -> bool:
    return cell.lower().endswith((*IMAGE_SUFFIXES, *DICOM_SUFFIXES))


def columns_of(options: CsvConfig, header: list[str], path: Path) -> dict[str, str]:
    """Meaning -> column that is there."""
    named = options.columns
    fields = [f"{FIELD}{name}" for name in (*CLINICAL_RECORD.fields, *options.fields)]
    # Columns that the user names must exist.
    for meaning, column in named.items():
        one_of("meaning of a column", meaning, fields if meaning.startswith(FIELD) else USUAL, DataError)
        if column is not None and column not in header:
            raise DataError(
                f"{path} has no column {column!r} (for {meaning})",
                expected="a column of the table",
                fix=did_you_mean(column, header),
            )
    # The others are looked up by their usual names; the leftmost match is taken.
    known = {_key(name): name for name in reversed(header)}
    columns = {meaning: column for meaning, column in named.items() if column is not None and meaning in fields}
    for meaning, usual in USUAL.items():
        column = next((known[_key(name)] for name in usual if _key(name) in known), None)
        column = named.get(meaning, column)
        if column is not None:
            columns[meaning] = column
    # Fields of the record by their own names, or the usual ones.
    for meaning in fields if options.record else ():
        name = meaning.removeprefix(FIELD)
        spellings = (meaning, name, *USUAL.get(name, ()))
        column = next((known[_key(spelling)] for spelling in spellings if _key(spelling) in known), None)
        if column is not None and meaning not in named:
            columns[meaning] = column
    contents = {"image", "report", "findings", "impression", *names("image")}
    if not contents & set(columns):
        column = column_whose_cells(path, _is_image)
        raise DataError(
            f"{path} has no column of images or reports: its columns are {', '.join(header)}",
            expected="one of " + ", ".join(sorted(contents)),
            fix=f"options.columns.image={column}" if column else "say which: options.columns.report=COLUMN, for one",
        )
    if "image" in columns and "view" not in columns:
        image = columns["image"]
        column = column_whose_cells(path, lambda cell: view_of(cell, position=True).modality is not None)
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


def columns_of_synthesis(header: list[str], study_is_patient: bool) -> dict[str, str | None]:
    """Columns of the results of a synthesis: "report" holds a file, and samples of one row of its manifest are one patient."""
    texts: dict[str, str | None] = {name: f"{name}_text" for name in names("text") if f"{name}_text" in header}
    own = {_key(name) for name in header} & {_key(name) for name in USUAL["patient_id"]}  # copied by --keep
    return texts if own or study_is_patient or "id" not in header else {**texts, "patient_id": "id"}
