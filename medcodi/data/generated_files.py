"""Folders and tables of generated images, texts and records: found, matched to directions and studies, and read.

Folder: ``DIR/<direction>/<study_id>/<modality>.png`` (``.txt``, ``.json``) with directions such as ``report_to_frontal``, or ``DIR/<study_id>/<modality>.png``
where one direction is given. Table: ``study_id``, ``direction`` (or ``prompts``), and one column per modality with a path (relative to
the table's folder) or a text. Nothing is replaced: a missing or unreadable file is refused, and the caller stops or lists it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medcodi.data.image_files import read_image
from medcodi.data.images import fit_square
from medcodi.data.refusals import Refused
from medcodi.data.reports import normalise_report
from medcodi.data.tables import is_absent, read_header, read_rows, text_of_cell
from medcodi.errors import DataError, MedCoDiError, did_you_mean
from medcodi.modality import MODALITIES, Kind, in_table_order, names
from medcodi.record import fields_in_columns, read_record
from medcodi.storage.checked_json import parse_json
from medcodi.study import Content, Direction, all_directions

SYNTHESIS_TABLE = "results.csv"  # of `medcodi synthesize`
# Kind -> suffixes that a generated content may have, the one that is named where it is missing first.
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm"),
    "text": (".txt",),
    "table": (".json",),
}
# Only the table of `medcodi synthesize` has all of these columns.
_SYNTHESIS_COLUMNS = {"id", "study_id", "row", "sample", "seed", "direction"}


@dataclass(frozen=True)
class GeneratedFile:
    """One generated content: a file, or a text that is a cell of the table."""

    where: str  # for messages: the file, or table, line and column
    path: Path | None = None  # the file; None: `text` is the content
    text: str = ""  # a report or record of the table


class GeneratedContent(NamedTuple):
    """Result of :func:`read_generated`."""

    value: Content  # image float32 `[H, W]` in [0, 1], text, or record, whose values are not checked yet
    sha256: str  # hash of the file, or of the text's UTF-8
    size: str = ""  # `width×height` of an image as stored; "" for a text


Listing = dict[Direction, dict[str, dict[str, GeneratedFile]]]  # direction -> study id -> target -> file


def direction_folder(direction: Direction) -> str:
    """Folder name of a direction: ``frontal+report_to_lateral``."""
    return ("+".join(direction.prompts) or "nothing") + "_to_" + "+".join(direction.targets)


_KNOWN = {
    direction_folder(known): known
    for known in [*all_directions(MODALITIES), *(Direction((), (m,)) for m in MODALITIES)]
}


def list_generated(source: str | Path, directions: Sequence[Direction] | None = None) -> Listing:
    """Find what a system generated, sorted by direction.

    Args:
        source: Folder or CSV file.
        directions: Only these. If a folder of studies has no folders of directions, exactly one names its direction.

    Raises:
        DataError: If nothing is found, a direction is unknown, or a study or modality occurs twice.
    """
    source = Path(source)
    if source.is_dir():
        table = source / SYNTHESIS_TABLE
        listing = _from_table(table) if table.is_file() else _from_folder(source, directions)
    elif source.is_file():
        listing = _from_table(source)
    else:
        raise DataError(f"no generated contents at {source}", expected="a folder or a CSV file", fix="check the path")
    chosen = {direction: listing[direction] for direction in listing if directions is None or direction in directions}
    if not chosen:
        available = ", ".join(map(str, listing)) or "nothing"
        requested = "" if directions is None else f" of {', '.join(map(str, directions))}"
        raise DataError(
            f"{source} holds nothing{requested}", expected="generated contents", fix=f"it holds: {available}"
        )
    # Few targets first, then few prompts: the order of every table.
    return dict(sorted(chosen.items(), key=lambda item: (len(item[0].targets), len(item[0].prompts), item[0])))


def read_generated(
    file: GeneratedFile, modality: str, image_size: int | None = None, *, allow_constant: bool = True
) -> GeneratedContent:
    """Read one generated content.

    Reports are normalised as reference reports are; an empty one is kept as "".

    Args:
        file: From a listing.
        modality: Which modality it holds.
        image_size: Images are padded to a square and resized, antialiased, to this side; None: they keep their size.
        allow_constant: Accept an image of one value (it is judged as it is).

    Raises:
        Refused: If the file is missing or unreadable.
    """
    data = file.text.encode() if file.path is None else _bytes(file.path)
    digest = hashlib.sha256(data).hexdigest()
    if MODALITIES[modality].kind == "text":
        try:
            return GeneratedContent(normalise_report(data.decode("utf-8-sig")), digest)
        except UnicodeDecodeError as error:
            raise Refused(f"{file.where} is not UTF-8: {error}", reason="not text", fix="save it as UTF-8") from None
        except Refused as error:
            if error.reason != "report: empty":
                raise
            return GeneratedContent("", digest)
    if MODALITIES[modality].kind == "table":
        is_json = data.lstrip().startswith(b"{")
        record = parse_json(data, file.where, Refused) if is_json else data.decode("utf-8", "replace")
        return GeneratedContent(read_record(record, Refused), digest)
    assert file.path is not None
    image = read_image(file.path, allow_constant=allow_constant)  # [H, W]
    size = f"{image.shape[1]}×{image.shape[0]}"
    return GeneratedContent(image if image_size is None else fit_square(image, image_size), digest, size)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(
            f"{path} is unreadable: {error.strerror}", reason="missing file", expected="the file that was generated"
        ) from None


def files_of_study(folder: Path, modalities: Collection[str]) -> dict[str, GeneratedFile]:
    """Files ``<modality>.<suffix>`` of one study's folder, for the modalities that are present.

    Raises:
        DataError: If a modality has two files.
    """
    file_of = {}
    for modality in modalities:
        files = [
            path for suffix in SUFFIXES[MODALITIES[modality].kind] if (path := folder / f"{modality}{suffix}").is_file()
        ]
        if len(files) > 1:
            raise DataError(
                f"{folder} holds {modality} twice: {', '.join(file.name for file in files)}",
                expected="one file",
                fix="remove the wrong one",
            )
        if files:
            file_of[modality] = GeneratedFile(str(files[0]), path=files[0])
    return file_of


# ---- folders ---------------------------------------------------------------------------------------------------------
def subfolders(folder: Path) -> list[Path]:
    """Folders inside a folder, sorted; hidden ones are skipped."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _from_folder(folder: Path, directions: Sequence[Direction] | None) -> Listing:
    by_folder = {path: _direction_of_folder(path.name) for path in subfolders(folder)}
    # Folders of directions: every folder beside one must be one too.
    if any(by_folder.values()):
        if unknown := next((path for path, direction in by_folder.items() if direction is None), None):
            raise DataError(
                f"{unknown} is no folder of a direction, and those beside it are",
                expected="folders such as report_to_frontal",
                fix=did_you_mean(unknown.name, _KNOWN) + "; or move it elsewhere",
            )
        return {direction: _studies_in(path, direction) for path, direction in by_folder.items() if direction}
    # Folders of studies: the caller names their direction.
    if directions is None or len(directions) != 1:
        raise DataError(
            f"{folder} does not name the direction of its studies",
            expected="folders such as report_to_frontal, or one direction",
            fix="directions='[report->frontal]'",
        )
    return {directions[0]: _studies_in(folder, directions[0])}


def _direction_of_folder(name: str) -> Direction | None:
    if name in _KNOWN:
        return _KNOWN[name]
    prompts, arrow, targets = name.replace("->", "_to_").partition("_to_")
    if not arrow:
        return None
    return Direction.parse(f"{'' if prompts == 'nothing' else prompts}->{targets}")


def _studies_in(folder: Path, direction: Direction) -> dict[str, dict[str, GeneratedFile]]:
    studies: dict[str, dict[str, GeneratedFile]] = {}
    for study in subfolders(folder):
        files = files_of_study(study, direction.targets)
        # A missing file is listed too: reading it is refused, and names it.
        for target in direction.targets:
            missing = study / f"{target}{SUFFIXES[MODALITIES[target].kind][0]}"
            files.setdefault(target, GeneratedFile(str(missing), path=missing))
        studies[study.name] = {target: files[target] for target in direction.targets}
    return studies


# ---- tables ----------------------------------------------------------------------------------------------------------
def table_rows(
    path: Path, required: Sequence[Collection[str]], known: Collection[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row of a CSV file; a cell that stands for nothing (``nan``, ``None``) is empty.

    Args:
        path: The table.
        required: Sets of columns; the table must have one of each.
        known: Columns that are read; the nearest of them is proposed for an unknown one.

    Raises:
        DataError: If a column is missing or doubled, a row is torn, or the file is no CSV in UTF-8 (:func:`read_rows`).
    """
    columns = set(read_header(path))
    if not all(columns & set(needed) for needed in required):
        raise DataError(
            f"{path} has {', '.join(sorted(columns)) or 'no columns'}",
            expected="columns " + "; ".join(" or ".join(needed) for needed in required),
            fix="; ".join(did_you_mean(name, known) for name in sorted(columns - set(known))[:2]) or "add them",
        )
    for row in read_rows(path):
        yield row.line, {column: "" if is_absent(cell) else cell for column, cell in row.cells.items() if column}


def _from_table(path: Path) -> Listing:
    listing: Listing = {}
    lines: dict[tuple[Direction, str], int] = {}  # where each study of a direction was first seen
    known = {"study_id", "direction", "prompts", *MODALITIES, *(f"{name}_text" for name in names("text"))}
    for number, row in table_rows(path, (("study_id",), ("direction", "prompts"), tuple(MODALITIES)), known):
        # The table of `medcodi synthesize` names its own study in study_id, and the row of the manifest in id.
        if is_synthesis := set(row) >= _SYNTHESIS_COLUMNS:
            row = {column: text_of_cell(cell) for column, cell in row.items()}
        # A record may have a column for each field.
        fields = {name: values for name in names("table") if (values := fields_in_columns(row, name))}
        row = {**row, **{f"{name}_text": json.dumps(values) for name, values in fields.items() if not row.get(name)}}
        study_id = (row["id"] if is_synthesis else "") or row["study_id"]
        where = f"{path.name}, line {number}"
        if not study_id:
            raise DataError(f"{where}: no study_id", expected="the id of a held-out study")
        try:
            direction, files = _row_files(path.parent, row, where)
        except DataError:
            raise
        except MedCoDiError as error:  # an invalid direction: its message does not name the line
            raise DataError(f"{where}: {error.failed}", expected=error.expected, fix=error.fix) from None
        if (first := lines.setdefault((direction, study_id), number)) != number:
            raise DataError(
                f"{path.name} holds study {study_id!r} of {direction} twice, in lines {first} and {number}",
                expected="each study once for a direction",
                fix="keep one of the lines",
            )
        listing.setdefault(direction, {})[study_id] = files
    return listing


def _row_files(folder: Path, row: dict[str, str], where: str) -> tuple[Direction, dict[str, GeneratedFile]]:
    # The direction is given, or follows from the prompts and the filled columns.
    if row.get("direction"):
        direction = Direction.parse(row["direction"])
    else:
        prompts = in_table_order(filter(None, re.split(r"[+;, ]+", row.get("prompts", ""))))
        filled = [name for name in MODALITIES if row.get(name) or row.get(f"{name}_text")]
        direction = Direction(prompts, tuple(name for name in filled if name not in prompts))
    files = {}
    for target in direction.targets:
        cell, text, is_image = row.get(target, ""), row.get(f"{target}_text", ""), MODALITIES[target].kind == "image"
        if not is_image and not text and not cell:
            raise DataError(
                f"{where}, {target}: the cell is empty, and {direction} has a {target}",
                expected=f"a {target}, or the path of one, in column {target}",
                fix="leave the line out; if an empty text was generated, name an empty .txt file",
            )
        files[target] = cell_file(folder, cell, target, f"{where}, {target}", text)
    return direction, files


def cell_file(folder: Path, cell: str, modality: str, where: str, text: str = "") -> GeneratedFile:
    """Content of a table's cell: a path relative to the table's folder, or a text itself.

    Args:
        folder: Of the table.
        cell: Path; of a text a ``.txt`` path, or the text; of a record a ``.json`` path, JSON, or ``age=71, sex=F``.
        modality: Column.
        where: For messages.
        text: A text or record given in a column of its own; it wins.
    """
    kind = MODALITIES[modality].kind
    if kind != "image" and (text or "\n" in cell or not cell.lower().endswith(SUFFIXES[kind])):
        return GeneratedFile(where, text=text or cell)
    return GeneratedFile(where, path=folder / cell if cell else folder / "(no path)")
