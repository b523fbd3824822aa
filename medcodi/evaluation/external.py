"""What other systems generated: a folder or a table of images and texts, matched with the held-out studies.

Folder: ``DIR/<direction>/<study_id>/<modality>.png`` with directions such as ``report_to_frontal``, or ``DIR/<study_id>/<modality>.png``
where one direction is told. Table: ``study_id``, ``direction`` (or ``prompts``), and a column for each modality with a path (from the
table's folder) or a text. Nothing is replaced: a file that is missing or cannot be read stops the run, or is listed as excluded.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medcodi.data.images import fit_square, read_image
from medcodi.data.refusals import Refused
from medcodi.data.reports import normalise_report
from medcodi.errors import DataError, MedCoDiError, did_you_mean
from medcodi.evaluation.held_out import Value, eight_bit
from medcodi.evaluation.kept import slug
from medcodi.modality import MODALITIES, in_table_order, names
from medcodi.study import Direction, all_directions

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
TEXT_SUFFIXES = (".txt",)
_OF_SYNTHESIZE = {
    "id",
    "study_id",
    "row",
    "sample",
    "seed",
    "direction",
}  # columns that only its results.csv has together
_KNOWN = {slug(one): one for one in [*all_directions(), *(Direction((), (name,)) for name in MODALITIES)]}


@dataclass(frozen=True)
class Origin:
    """Where one generated content comes from: a file, or a text that stands in the table."""

    where: str
    path: Path | None = None
    text: str = ""


Listing = dict[Direction, dict[str, dict[str, Origin]]]  # direction -> study -> target -> origin


def list_generated(source: str | Path, directions: Sequence[Direction] | None = None) -> Listing:
    """Find what a system generated.

    Args:
        source: Folder or CSV file.
        directions: Only these; one of them is what a folder of studies without folders of directions holds.

    Raises:
        DataError: If there is nothing, a direction cannot be told, a study stands twice, or a modality is told twice.
    """
    source = Path(source)
    if source.is_dir():
        table = source / "results.csv"  # of medcodi synthesize
        listing = _from_table(table) if table.is_file() else _from_folder(source, directions)
    elif source.is_file():
        listing = _from_table(source)
    else:
        raise DataError(f"no generated contents at {source}", expected="a folder or a CSV file", fix="check the path")
    chosen = {one: listing[one] for one in listing if directions is None or one in directions}
    if not chosen:
        found = ", ".join(map(str, listing)) or "nothing"
        asked = "" if directions is None else f" of {', '.join(map(str, directions))}"
        raise DataError(f"{source} holds nothing{asked}", expected="generated contents", fix=f"it holds: {found}")
    return dict(sorted(chosen.items(), key=lambda item: (len(item[0].targets), len(item[0].prompts), item[0])))


def _direction_of_folder(name: str) -> Direction | None:
    if name in _KNOWN:
        return _KNOWN[name]
    prompts, arrow, targets = name.replace("->", "_to_").partition("_to_")
    if not arrow:
        return None
    return Direction.parse(f"{'' if prompts == 'nothing' else prompts}->{targets}")


def _from_folder(folder: Path, directions: Sequence[Direction] | None) -> Listing:
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    told = {path: _direction_of_folder(path.name) for path in places}
    if any(told.values()):
        if unknown := next((path for path, direction in told.items() if direction is None), None):
            raise DataError(
                f"{unknown} is no folder of a direction, and those beside it are",
                expected="folders such as report_to_frontal",
                fix=did_you_mean(unknown.name, _KNOWN) + "; or move it elsewhere",
            )
        return {direction: _studies_in(path, direction) for path, direction in told.items() if direction is not None}
    if directions is None or len(directions) != 1:
        raise DataError(
            f"{folder} does not tell of which direction its studies are",
            expected="folders such as report_to_frontal, or one direction",
            fix="directions='[report->frontal]'",
        )
    return {directions[0]: _studies_in(folder, directions[0])}


def _studies_in(folder: Path, direction: Direction) -> dict[str, dict[str, Origin]]:
    found: dict[str, dict[str, Origin]] = {}
    for study in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        origins = {}
        for target in direction.targets:
            suffixes = TEXT_SUFFIXES if MODALITIES[target].kind == "text" else IMAGE_SUFFIXES
            files = [study / f"{target}{suffix}" for suffix in suffixes if (study / f"{target}{suffix}").is_file()]
            if len(files) > 1:
                raise DataError(
                    f"{study} holds {target} twice: {', '.join(file.name for file in files)}",
                    expected="one file",
                    fix="remove the wrong one",
                )
            path = files[0] if files else study / f"{target}{suffixes[0]}"
            origins[target] = Origin(str(path), path=path)
        found[study.name] = origins
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            known = {"study_id", "direction", "prompts", *MODALITIES, *(f"{one}_text" for one in names("text"))}
            columns = set(reader.fieldnames or ())
            if "study_id" not in columns or not columns & ({"direction", "prompts"}) or not columns & set(MODALITIES):
                seen = ", ".join(sorted(columns)) or "no columns"
                raise DataError(
                    f"{path} has {seen}",
                    expected=f"study_id, direction or prompts, and some of {', '.join(MODALITIES)}",
                    fix="; ".join(did_you_mean(one, known) for one in sorted(columns - known)[:2]) or "add them",
                )
            for number, row in enumerate(reader, 2):
                yield number, {key: (value or "").strip() for key, value in row.items() if key}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}", expected="CSV in UTF-8") from None


def _from_table(path: Path) -> Listing:
    listing: Listing = {}
    lines: dict[tuple[Direction, str], int] = {}
    for number, row in _rows(path):
        # The results.csv of `medcodi synthesize` names its own study in study_id, and the row of the manifest in id.
        study_id = (row["id"] if set(row) >= _OF_SYNTHESIZE else "") or row["study_id"]
        where = f"{path.name}, line {number}"
        if not study_id:
            raise DataError(f"{where}: no study_id", expected="the id of a held-out study")
        try:
            direction, origins = _row_contents(path.parent, row, where)
        except DataError:
            raise
        except MedCoDiError as error:  # of the direction, which does not know where it stands
            raise DataError(f"{where}: {error.failed}", expected=error.expected, fix=error.fix) from None
        if (first := lines.setdefault((direction, study_id), number)) != number:
            raise DataError(
                f"{path.name} holds study {study_id!r} of {direction} twice, in lines {first} and {number}",
                expected="each study once for a direction",
                fix="keep one of the lines",
            )
        listing.setdefault(direction, {})[study_id] = origins
    return listing


def _row_contents(folder: Path, row: dict[str, str], where: str) -> tuple[Direction, dict[str, Origin]]:
    if row.get("direction"):
        direction = Direction.parse(row["direction"])
    else:
        prompts = in_table_order(filter(None, re.split(r"[+;, ]+", row.get("prompts", ""))))
        told = [name for name in MODALITIES if row.get(name) or row.get(f"{name}_text")]
        direction = Direction(prompts, tuple(name for name in told if name not in prompts))
    origins = {}
    for target in direction.targets:
        cell, text = row.get(target, ""), row.get(f"{target}_text", "")
        place = f"{where}, {target}"
        is_text = MODALITIES[target].kind == "text"
        if is_text and not text and not cell:
            raise DataError(
                f"{place}: nothing stands there, and {direction} has a {target}",
                expected=f"a text, or the path of one, in column {target}",
                fix="leave the line out; if an empty text was generated, name an empty .txt file",
            )
        if is_text and text:
            origins[target] = Origin(place, text=text)
        elif is_text and not (cell.lower().endswith(TEXT_SUFFIXES) and "\n" not in cell):
            origins[target] = Origin(place, text=cell)
        else:
            origins[target] = Origin(place, path=folder / cell if cell else folder / "(no path)")
    return direction, origins


@dataclass
class SizesSeen:
    """Sizes of the images that were read, counted: ``"512×512": 40``."""

    counts: Counter[str] = field(default_factory=Counter)


def read_origin(origin: Origin, target: str, image_size: int, sizes: SizesSeen) -> tuple[Value, str]:
    """One generated content as it is judged, and the SHA-256 of its file (or text).

    Images are padded to a square, resized antialiased and rounded to 8 bits; a constant one is kept, and flagged later. Reports are
    normalised as the references were; an empty one is kept as "".

    Raises:
        Refused: If the file is missing or cannot be read.
    """
    if MODALITIES[target].kind == "text":
        data = origin.text.encode() if origin.path is None else _bytes(origin.path)
        try:
            text = normalise_report(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Refused(f"{origin.where} is not UTF-8: {error}", reason="not text", fix="save it as UTF-8") from None
        except Refused as error:
            if error.reason != "report: empty":
                raise
            text = ""
        return text, hashlib.sha256(data).hexdigest()
    assert origin.path is not None
    data = _bytes(origin.path)
    image = read_image(origin.path, allow_constant=True)
    sizes.counts[f"{image.shape[1]}×{image.shape[0]}"] += 1
    return eight_bit(np.asarray(fit_square(image, image_size))), hashlib.sha256(data).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(
            f"{path} cannot be read: {error.strerror}", reason="missing file", expected="the file that was generated"
        ) from None
