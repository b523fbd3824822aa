"""Kind of a path: a table, a folder with one table, or DICOM files; anything else is refused with what to do."""

from __future__ import annotations

from pathlib import Path

from medcodi.data.image_files import is_dicom
from medcodi.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2")
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
