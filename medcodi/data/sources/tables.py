"""Tables that a source comes with: CSV files, compressed or not, read row by row and refused by name."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from medcodi.errors import DataError, did_you_mean


def find_table(folder: Path, pattern: str) -> Path | None:
    """The one table of a folder whose name fits, ``.csv`` before ``.csv.gz``; None where there is none.

    Args:
        folder: Where to look.
        pattern: Name without suffix, ``*`` for the version: ``"mimic-cxr-*-split"``.

    Raises:
        DataError: If several versions lie there.
    """
    found = [file for suffix in (".csv", ".csv.gz") for file in sorted(folder.glob(pattern + suffix))]
    versions = {file.name.split(".csv")[0] for file in found}
    if len(versions) > 1:
        raise DataError(
            f"{folder} holds several versions of a table: {', '.join(sorted(versions))}",
            expected=f"one {pattern}.csv or .csv.gz",
            fix="leave the one you mean, or give its folder as options.tables",
        )
    return found[0] if found else None


def read_table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a table, cells stripped; a cell that is missing is "".

    Args:
        path: ``.csv`` or ``.csv.gz``.
        columns: Those that must be there, and filled.

    Raises:
        DataError: If the file cannot be read whole, has no rows, lacks a column, or a row lacks one of these values.
    """
    num = 0
    try:
        with _opened(path) as file:
            reader = csv.DictReader(file, strict=True)
            _check_header(path, list(reader.fieldnames or []), columns)
            for num, row in enumerate(reader, start=1):
                cells = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
                if empty := [column for column in columns if not cells[column]]:
                    raise DataError(
                        f"{path}, line {num + 1}: no {empty[0]}",
                        expected="a value in every row",
                        fix="download the table again",
                    )
                yield cells
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{path} cannot be unpacked after {num:,} rows ({error})",
            expected="a whole gzip file",
            fix="download it again",
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read after {num:,} rows ({error})", expected="a CSV table", fix="download it again"
        ) from None
    if num == 0:
        raise DataError(f"{path} holds no rows", expected="a header and at least one row", fix="download it again")


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _check_header(path: Path, header: list[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}",
            expected=", ".join(columns),
            fix=did_you_mean(missing[0], header) if header else "download it again",
        )
