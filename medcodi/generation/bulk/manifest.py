"""The manifest: one row for each request, as CSV or JSON lines; invalid rows are reported row by row."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcodi.config import config
from medcodi.data.tables import MAX_CELL, is_absent
from medcodi.errors import DataError, PromptError, did_you_mean, one_of
from medcodi.generation.request import check_request
from medcodi.modality import MODALITIES, in_table_order, names
from medcodi.model.generation_config import ORDERS
from medcodi.randomness import seed_from_keys
from medcodi.record import fields_in_columns
from medcodi.storage.checked_json import parse_json
from medcodi.storage.names import collision_key, is_plain_name
from medcodi.study import Direction

_FILES = {f"{name}_file": name for name in names("text")}  # columns with the path of a text prompt
COLUMNS = ("id", "targets", "seed", "num_samples", "weights", "order", *MODALITIES, *_FILES)
RESULT_COLUMNS = (
    "study_id", *MODALITIES, "seed", "id", "row", "sample", "direction",
    *(f"{name}_text" for name in (*names("text"), *names("table"))), *(f"{name}_sha256" for name in MODALITIES),
    *(f"{name}_prompt" for name in MODALITIES), *(f"{name}_prompt_sha256" for name in MODALITIES),
    *(f"{name}_prompt_truncated" for name in names("text")), "model", "model_sha256", "settings",
)  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")  # it is the name of a folder too


@config
class RowDefaults:
    """Values of a row's empty cells."""

    targets: tuple[str, ...] | None = None  # None: every modality that is not a prompt
    seed: int = 0  # a row without a seed gets one derived from this and its id
    num_samples: int = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """A valid row."""

    number: int  # position among the rows, from 1
    id: str  # unique among the rows
    direction: Direction  # prompts of positive weight, and targets
    prompts: Mapping[str, Path | str]
    weights: Mapping[str, float]  # of every prompt
    seed: int  # of the first sample
    num_samples: int
    order: str | None = None  # in which its targets are generated; None: as the run says
    copied: Mapping[str, str] = field(default_factory=dict)  # columns of --keep, for the results

    def study_id(self, sample: int) -> str:
        """The name of one sample: the row's id; of several samples ``id-0``, ``id-1`` ..."""
        return self.id if self.num_samples == 1 else f"{self.id}-{sample}"


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """An invalid or failed row, and the reason."""

    number: int
    id: str
    message: str


def read_manifest(path: Path, defaults: RowDefaults, keep: Sequence[str] = ()) -> list[Row | BadRow]:
    """Read and check every row; no prompt file is opened.

    Args:
        path: ``.jsonl`` (one object a line), else CSV with comma, semicolon or tab between columns.
        defaults: Values of empty cells.
        keep: Further columns to copy into the results.

    Returns:
        The rows in order, without blank lines.

    Raises:
        DataError: If the file cannot be read, has no rows or an unknown column, or lacks a column of ``keep``.
    """
    if not path.is_file():
        raise DataError(f"no manifest at {path}", expected="a .csv or .jsonl file", fix="check the path")
    data = path.read_bytes()
    lines = _jsonl(data) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv(data, path)
    rows: list[Row | BadRow] = []
    row_of: dict[str, int] = {}  # name of a study, as a file system may see it -> number of its row
    columns: set[str] = set()
    for number, cells in enumerate(lines, start=1):
        row = _read_row(cells, number, path, defaults, keep)
        if isinstance(cells, Mapping):
            columns |= set(cells)
        # An id, and the names of its samples, may occur once only.
        if isinstance(row, Row):
            study_ids = [row.study_id(sample) for sample in range(row.num_samples)]
            duplicate = next((name for name in study_ids if collision_key(name) in row_of), None)
            if duplicate is not None:
                error = DataError(
                    f"row {row_of[collision_key(duplicate)]} has the id {duplicate!r} already",
                    expected="each id once, whatever its case: it names a folder",
                )
                row = BadRow(number=number, id=row.id, message=str(error))
            else:
                row_of.update(dict.fromkeys(map(collision_key, study_ids), number))
        rows.append(row)
    if not rows:
        raise DataError(f"{path} holds no rows", expected="a header and at least one row, or one JSON object a line")
    _check_columns(columns, keep, path)
    return rows


def _check_columns(columns: set[str], keep: Sequence[str], path: Path) -> None:
    fields = {column for column in columns if column.partition(".")[0] in names("table")}  # checked by the model
    for name in sorted(columns - set(COLUMNS) - fields - set(keep)):
        raise DataError(
            f"{path} has an unknown column {name!r}",
            expected="the columns of a manifest",
            fix=f"correct it ({did_you_mean(name, COLUMNS)}), or copy it into the results with --keep {name}",
        )
    further = columns - {*COLUMNS, *RESULT_COLUMNS}
    for name in keep:
        if name not in further:
            raise DataError(
                f"--keep {name}: "
                + (f"{path} has no such column" if name not in columns else "results.csv has its own"),
                expected="a further column of the manifest",
                fix=did_you_mean(name, further) if further else "leave --keep out, or rename the column",
            )


def is_row_id(name: str) -> bool:
    """Whether a name can be the id of a row, and so the name of a folder."""
    return _ID.fullmatch(name) is not None and is_plain_name(name)


def _csv(data: bytes, path: Path) -> Iterator[Mapping[str, Any] | DataError]:
    # Bytes that are not UTF-8 become surrogates, so that only their own cell is refused (in _text).
    text = data.decode("utf-8-sig", errors="surrogateescape")
    first = text.partition("\n")[0]
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise DataError(f"{path}, line {start}: {error}", expected="a CSV header") from None
            yield DataError(
                f"lines {start} to {reader.line_num} are not CSV: {error}",
                expected="cells with quotes and line breaks to be quoted",
                fix="double the quotes within a quoted cell",
            )
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if len(set(header)) != len(header):
                raise DataError(f"{path} has a column twice: {', '.join(header)}", expected="every column once")
        elif any(cell.strip() for cell in cells):
            # A row with more or fewer cells was torn: its report may be a part of one.
            if len(cells) != len(header):
                yield DataError(
                    f"line {start} has {len(cells)} cells",
                    expected=f"{len(header)}, as the header has",
                    fix="quote cells that hold the separator or a line break",
                )
            else:
                yield dict(zip(header, cells, strict=True))


def _jsonl(data: bytes) -> Iterator[Mapping[str, Any] | DataError]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line, f"line {number}")
        except DataError as error:
            yield error
        else:
            refusal = DataError(f"line {number} holds a {type(values).__name__}", expected="an object such as {}")
            yield values if isinstance(values, dict) else refusal


def _read_row(
    cells: Mapping[str, Any] | DataError, number: int, path: Path, defaults: RowDefaults, keep: Sequence[str]
) -> Row | BadRow:
    """A row, or why it is invalid."""
    if isinstance(cells, DataError):
        return BadRow(number=number, id="", message=str(cells))
    name = ""
    try:
        name = _text(cells, "id") or f"row-{number}"
        if not is_row_id(name):
            raise DataError(
                f"the id {name!r} cannot name a folder",
                expected="at most 120 letters, digits, '.', '_' and '-', the first a letter or digit, the last no '.'; no device such as CON",
            )
        return _row_from_cells(cells, number, name, path.parent, defaults, keep)
    except (DataError, PromptError) as error:
        return BadRow(number=number, id=name if _ID.fullmatch(name) else "", message=str(error))


def _row_from_cells(
    cells: Mapping[str, Any], number: int, name: str, root: Path, defaults: RowDefaults, keep: Sequence[str]
) -> Row:
    """A row from its cells; a DataError or PromptError says what is invalid."""
    # Prompts: paths are relative to the manifest; a text is in its cell or in a file.
    prompts: dict[str, Path | str] = {}
    for column, text in ((column, _text(cells, column)) for column in (*MODALITIES, *_FILES)):
        modality = _FILES.get(column, column)
        if text and modality in prompts:
            raise DataError(f"both {modality} and {column} are given", expected="one of them", fix="empty one cell")
        if text:
            is_inline = column in names("text") or (column in names("table") and not text.lower().endswith(".json"))
            prompts[modality] = text if is_inline else root / text
    # A record may have a column for each field.
    for table in names("table"):
        texts = {field: _text(cells, f"{table}.{field}") for field in fields_in_columns(cells, table)}
        fields = {field: text for field, text in texts.items() if text}
        if fields and table in prompts:
            raise DataError(f"both {table} and {table}.{next(iter(fields))} are given", expected="one of them")
        if fields:
            prompts[table] = json.dumps(fields)
    # Seed, number of samples and targets, with the defaults.
    seed, num_samples = _integer(cells, "seed"), _integer(cells, "num_samples")
    if seed is None:
        seed = seed_from_keys("synthesize", defaults.seed, name) % 2**31
    num_samples = defaults.num_samples if num_samples is None else num_samples
    targets = _targets(cells)
    direction, used, weights = check_request(
        prompts, defaults.targets if targets is None else targets, _weights(cells), num_samples, seed
    )
    order = _text(cells, "order") or None
    if order is not None:
        one_of("order", order, ORDERS, PromptError)
    return Row(
        number=number,
        id=name,
        direction=direction,
        prompts={modality: used[modality] for modality in direction.prompts},
        weights=weights,
        seed=seed,
        num_samples=num_samples,
        order=order,
        copied={column: _text(cells, column, as_written=True) for column in keep},
    )


def _text(cells: Mapping[str, Any], column: str, *, as_written: bool = False) -> str:
    """A cell as text, "" where it stands for nothing (``nan``, ``None``); ``as_written``: also where it does."""
    value = cells.get(column)
    if value is None:
        return ""
    if isinstance(value, dict) and column in names("table"):
        return json.dumps(value)
    if isinstance(value, bool | list | dict):
        raise DataError(f"{column} holds {json.dumps(value)[:60]}", expected="a text or a number")
    text = "" if is_absent(str(value)) and not as_written else str(value).strip()
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"{column} is not UTF-8 text", fix="save the manifest as UTF-8")
    return text


def _integer(cells: Mapping[str, Any], column: str) -> int | None:
    text = _text(cells, column)
    try:
        return int(text) if text else None
    except ValueError:
        raise DataError(f"{column} is {text[:40]!r}", expected="a whole number") from None


def _targets(cells: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = cells.get("targets")
    listed = (
        [str(name) for name in value] if isinstance(value, list) else re.split(r"[+,;\s]+", _text(cells, "targets"))
    )
    return in_table_order(name for name in listed if name) or None


def _weights(cells: Mapping[str, Any]) -> dict[str, float] | None:
    value = cells.get("weights")
    if isinstance(value, dict):
        pairs = [(str(name), str(weight)) for name, weight in value.items()]
    else:
        pairs = [tuple(pair.partition("=")[::2]) for pair in re.split(r"[,;\s]+", _text(cells, "weights")) if pair]
    try:
        return {name.strip(): float(weight) for name, weight in pairs} or None
    except ValueError:
        raise DataError(f"weights holds {value!r}", expected="such as frontal=0.5 report=1") from None
