"""A cache on disk: parts of some hundred studies, each whole or not there, and ``cache.json``, which vouches for them.

A part is a NumPy array of records, one for each study, beside a JSON file with the studies' names. A record holds everything
of a study in one piece, so that reading a row is reading one place of the file, and ends with its own CRC-32.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medcodi.errors import DataError
from medcodi.storage import disk
from medcodi.storage.atomic import sha256_file
from medcodi.training.caching.key import CacheKey

INFO, FORMAT = "cache.json", "medcodi-cache/1"
NULLS = "nulls.npy"
LOCK = ".lock"
CRC = "crc32"
MAX_PARTS = 256  # each stays open while it is mapped, and a process may open about a thousand
MIN_STUDIES = 32


@dataclass(frozen=True, kw_only=True)
class Part:
    """Studies ``start`` to ``stop`` of the dataset."""

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def file(self) -> str:
        """``part-00003.npy``."""
        return f"part-{self.index:05d}.npy"

    @property
    def note(self) -> str:
        """``part-00003.json``: written last, so a part that has it is whole."""
        return f"part-{self.index:05d}.json"


def plan_parts(num_studies: int) -> list[Part]:
    """Cut a dataset into parts of a size that follows from the number of studies alone."""
    size = max(MIN_STUDIES, -(-num_studies // MAX_PARTS))
    starts = range(0, num_studies, size)
    return [Part(index=i, start=start, stop=min(start + size, num_studies)) for i, start in enumerate(starts)]


@dataclass(frozen=True, kw_only=True)
class Note:
    """What was written of a part.

    Attributes:
        rows: Studies in it.
        bytes: Of its file.
        sha256: Of its file.
        ids: [study, patient] of each row.
        present: Modality -> how many studies have it.
    """

    rows: int
    bytes: int
    sha256: str
    ids: list[list[str]]
    present: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Note | None:
        """The note at ``path``; None if there is none that can be read."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


# ---- records ---------------------------------------------------------------------------------------------------------
def sealed(records: np.ndarray) -> np.ndarray:
    """The records, with the CRC-32 of each in its last field."""
    records[CRC] = [zlib.crc32(row) for row in _bytes_before_crc(records)]
    return records


def damaged(records: np.ndarray) -> list[int]:
    """Rows whose bytes are not those that were written."""
    found = records[CRC].tolist()
    return [row for row, data in enumerate(_bytes_before_crc(records)) if zlib.crc32(data) != found[row]]


def _bytes_before_crc(records: np.ndarray) -> Iterator[memoryview]:
    raw = records.view(np.uint8).reshape(len(records), records.dtype.itemsize)
    return (row[: -records.dtype[CRC].itemsize].data for row in raw)


# ---- writing ---------------------------------------------------------------------------------------------------------
def write_array(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Write an array as ``.npy``, whole or not at all.

    Returns:
        ``bytes`` and ``sha256``.

    Raises:
        DataError: If it cannot be written.
    """
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    _write(path, lambda file: file.write(data.getbuffer()))
    return {"bytes": data.getbuffer().nbytes, "sha256": hashlib.sha256(data.getbuffer()).hexdigest()}


def write_json(path: Path, values: Any) -> None:
    """Write JSON, whole or not at all.

    Raises:
        DataError: If it cannot be written.
    """
    text = json.dumps(values, indent=1 if path.name == INFO else None) + "\n"
    _write(path, lambda file: file.write(text.encode()))


def write_part(folder: Path, part: Part, records: np.ndarray, ids: list[list[str]], present: dict[str, int]) -> None:
    """Write a part, and then its note.

    Raises:
        DataError: If it cannot be written.
    """
    written = write_array(folder / part.file, sealed(records))
    write_json(folder / part.note, asdict(Note(rows=len(records), ids=ids, present=present, **written)))


def _write(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            with partial.open("wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what a failure to write means.

    Raises:
        DataError: Instead of ``OSError``.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in disk.FULL
        raise DataError(
            disk.why_not_written(path, error),
            expected="room for it" if full else "a cache folder that can be written",
            fix="make room and run it again: finished parts stay" if full else "fix the folder, or name another",
        ) from error


# ---- the folder ------------------------------------------------------------------------------------------------------
def read_info(folder: Path) -> dict[str, Any] | None:
    """``cache.json``; None where there is no folder, or an empty one.

    Raises:
        DataError: If something else lies there, or it cannot be read.
    """
    try:
        text = (folder / INFO).read_text(encoding="utf-8")
    except FileNotFoundError:
        if not folder.is_dir() or all(file.name.startswith(".") for file in folder.iterdir()):
            return None
        text = ""
    except OSError as error:
        raise DataError(f"{folder / INFO} cannot be read: {error.strerror}", fix="fix the folder") from error
    try:
        info = json.loads(text)
        CacheKey.from_json(info["key"])
    except (ValueError, KeyError, TypeError):
        info = {}
    if info.get("format") != FORMAT:
        raise DataError(
            f"{folder} is not a cache of encoded studies",
            expected=f"a folder with {INFO} of format {FORMAT}, or a new one",
            fix="remove it, or name another cache folder",
        )
    return info


def begin(folder: Path, key: CacheKey) -> None:
    """Write down what the folder is for; it holds no studies yet.

    Raises:
        DataError: If it cannot be written.
    """
    write_json(folder / INFO, {"format": FORMAT, "complete": False, "key": key.to_json()})


def remove(folder: Path) -> None:
    """Take a cache away, and nothing else that lies in its folder."""
    with writing(folder):
        for file in [folder / NULLS, *folder.glob("part-*.npy"), *folder.glob("part-*.json"), folder / INFO]:
            file.unlink(missing_ok=True)


def finished(folder: Path, parts: list[Part]) -> dict[int, Note]:
    """Index -> note, of the parts that lie there whole."""
    found = {}
    for part in parts:
        note, path = Note.read(folder / part.note), folder / part.file
        if note is not None and note.rows == part.rows and path.is_file() and path.stat().st_size == note.bytes:
            found[part.index] = note
    return found


def is_intact(path: Path, sha256: str) -> bool:
    """Whether a file has the bytes that were written."""
    try:
        return sha256_file(path) == sha256
    except OSError:
        return False
