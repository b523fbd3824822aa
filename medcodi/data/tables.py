"""CSV tables in, compressed or not: rows that are torn, doubled columns and foreign encodings are refused with their line."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from medcodi.errors import DataError, did_you_mean

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to spreadsheets
MAX_CELL = 2**24  # characters: a longer cell is an unclosed quote
# Cells that say "nothing here" in the tables of other programs.
_ABSENT = {"", "nan", "none", "na", "n/a", "<na>", "#n/a", "null", "nil", "-", "--"}


def is_absent(cell: str) -> bool:
    """Whether a cell stands for a missing value: empty, ``nan``, ``None``, ``NA``, ``<NA>``, ``null``, ``-``."""
    return cell.strip().lower() in _ABSENT


@dataclass(frozen=True)
class TableRow:
    """One row of a table: the line where it starts (from 1, the header's), and column -> stripped cell."""

    line: int
    cells: dict[str, str]


def find_table(folder: Path, pattern: str) -> Path | None:
    """The one table of a folder whose name fits, ``.csv`` before ``.csv.gz``; None where there is none.

    ``pattern`` is a name without suffix, with ``*`` for the version.

    Raises:
        DataError: If the folder holds several versions.
    """
    files = [file for suffix in (".csv", ".csv.gz") for file in sorted(folder.glob(pattern + suffix))]
    versions = {file.name.split(".csv")[0] for file in files}
    if len(versions) > 1:
        raise DataError(
            f"{folder} holds several versions of a table: {', '.join(sorted(versions))}",
            expected=f"one {pattern}.csv or .csv.gz",
            fix="leave the one you mean, or give its folder as options.tables",
        )
    return files[0] if files else None


def read_header(path: Path) -> list[str]:
    """The columns of a table.

    Raises:
        DataError: As :func:`read_rows`.
    """
    with _opened(path) as file:
        return _Reader(path, file).header


def read_rows(path: Path) -> Iterator[TableRow]:
    r"""The rows of a table, blank lines left out. Only ``\n``, ``\r\n`` and ``\r`` end a row.

    Args:
        path: ``.csv`` or ``.csv.gz`` in UTF-8; comma, semicolon or tab between columns, whichever the header has most.

    Raises:
        DataError: If the file is missing or is no UTF-8 table, a column is doubled, a row has more or fewer cells
            than the header, or there are no rows.
    """
    num = 0
    with _opened(path) as file:
        reader = _Reader(path, file)
        while (cells := reader.next()) is not None:
            if not any(cell.strip() for cell in cells):
                continue
            # A row with more or fewer cells was torn by an unquoted separator.
            if len(cells) != len(reader.header):
                raise DataError(
                    f"{path}, line {reader.line}: {len(cells)} cells, and the header has {len(reader.header)} columns",
                    expected="as many cells as columns",
                    fix="quote cells that hold the separator or a line break",
                )
            num += 1
            yield TableRow(reader.line, {name: cell.strip() for name, cell in zip(reader.header, cells, strict=True)})
    if num == 0:
        raise DataError(f"{path} holds no rows", expected="a header and at least one row", fix="export it again")


def read_table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a published table, every column of ``columns`` there and filled.

    Raises:
        DataError: As :func:`read_rows`, or if a column or one of its values is missing.
    """
    header = read_header(path)
    if missing := [column for column in columns if column not in header]:
        raise DataError(
            f"{path} has no column {missing[0]!r}",
            expected=", ".join(columns),
            fix=did_you_mean(missing[0], header) if header else "download it again",
        )
    for row in read_rows(path):
        if empty := [column for column in columns if not row.cells[column]]:
            raise DataError(
                f"{path}, line {row.line}: no {empty[0]}",
                expected="a value in every row",
                fix="download the table again",
            )
        yield row.cells


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """The text of a table; what its file or compression fails at while it is read becomes a refusal."""
    if not path.is_file():
        raise DataError(f"no table at {path}", expected="a CSV file", fix="check path=")
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})", fix="save it as UTF-8") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{path} cannot be unpacked ({error})", expected="a whole gzip file", fix="download it again"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})", fix="check the disk") from None


class _Reader:
    """The cells of a table line by line, and the number of the last line read."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        csv.field_size_limit(MAX_CELL)
        # The separator is the one that the header has most of.
        first = file.readline()
        self._path = path
        self._reader = csv.reader(chain([first], file), delimiter=max(",;\t", key=first.count), strict=True)
        self.line = 1  # where the last row starts
        self.header = [cell.strip() for cell in self.next() or []]
        # A doubled column would silently win over the other.
        doubled = sorted({name for name in self.header if name and self.header.count(name) > 1})
        if doubled:
            raise DataError(
                f"{path} has the column {doubled[0]!r} twice",
                expected="every column once",
                fix="rename or remove one of them",
            )

    def next(self) -> list[str] | None:
        """The cells of the next row; None at the end."""
        self.line = self._reader.line_num + 1
        try:
            return next(self._reader, None)
        except csv.Error as error:
            raise DataError(
                f"{self._path}, line {self.line}: {error}",
                expected="a CSV table",
                fix="correct the line: a quote may not be closed",
            ) from None


# ---- tables that we write --------------------------------------------------------------------------------------------
def spreadsheet_text(text: str) -> str:
    """A text as a cell that a spreadsheet does not run as a formula: an apostrophe before ``= + - @``, tab and line end."""
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def text_of_cell(cell: str) -> str:
    """The text that :func:`spreadsheet_text` wrote."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


def spreadsheet_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table to be written, its texts as :func:`spreadsheet_text`."""
    return {key: spreadsheet_text(value) if isinstance(value, str) else value for key, value in row.items()}
