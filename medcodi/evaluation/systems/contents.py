"""Generated contents of one system: one file per shard and direction, ``<folder>/<direction>/00000.npz``."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from medcodi.data.generated_files import direction_folder
from medcodi.errors import DataError
from medcodi.evaluation.studies import StudyShard, Value
from medcodi.modality import MODALITIES
from medcodi.storage import atomic
from medcodi.study import Direction

Contents = dict[str, list[Value]]  # target -> one value per study


def read_contents(path: Path, direction: Direction) -> tuple[str, Contents] | None:
    """Key and contents of one file; None if it is missing or damaged (a zip has a checksum per member)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays["key"]), {target: _values(target, arrays[target]) for target in direction.targets}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
        return None


def _values(target: str, array: np.ndarray) -> list[Value]:
    if MODALITIES[target].kind == "image":
        return list(array.astype(np.float32) / 255)
    # A text, or the draws of a record.
    return [value if isinstance(value, str) else tuple(value) for value in json.loads(str(array))]


def write_contents(path: Path, key: str, contents: Mapping[str, Sequence[Value]]) -> None:
    """Write one file atomically: 8-bit images, texts and records as JSON, and the key of everything they depend on."""
    arrays: dict[str, Any] = {
        target: np.stack([np.round(np.asarray(value) * 255).astype(np.uint8) for value in values])  # [N, H, W]
        if MODALITIES[target].kind == "image"
        else np.array(json.dumps(values))
        for target, values in contents.items()
    }
    with atomic.writing(path, error=DataError) as file:
        np.savez_compressed(file, key=np.array(key), **arrays)


class ContentFolder:
    """The folder of one system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, direction: Direction, shard: StudyShard) -> Path:
        """The file of a shard."""
        return self.folder / direction_folder(direction) / f"{shard.number:05d}.npz"

    def sweep(self, direction: Direction) -> None:
        """Remove what runs that were killed left beside their shards."""
        atomic.sweep_abandoned(self.folder / direction_folder(direction))

    def read(self, direction: Direction, shard: StudyShard, key: str | None = None) -> Contents | None:
        """A shard's contents; None if they are missing, damaged, or were made with another key."""
        stored_key, contents = read_contents(self.path(direction, shard), direction) or (None, None)
        if contents is None or (key is not None and stored_key != key):
            return None
        return contents if all(len(values) == len(shard.rows) for values in contents.values()) else None

    def write(self, direction: Direction, shard: StudyShard, key: str, contents: Contents) -> None:
        """Write a shard."""
        write_contents(self.path(direction, shard), key, contents)

    def read_shards(self, direction: Direction, shards: Sequence[StudyShard]) -> Iterator[tuple[StudyShard, Contents]]:
        """Shard by shard, so that memory does not grow with the studies.

        Raises:
            DataError: If a shard is missing or damaged.
        """
        for shard in shards:
            contents = self.read(direction, shard)
            if contents is None:
                raise DataError(
                    f"{self.path(direction, shard)} is missing or damaged",
                    expected=f"{len(shard.rows)} generated studies of {direction}",
                    fix="run the evaluation again: it resumes",
                )
            yield shard, contents

    def read_rows(
        self, direction: Direction, shards: Sequence[StudyShard], rows: Sequence[int]
    ) -> dict[int, dict[str, Value]]:
        """Contents of some studies: row -> target -> value."""
        wanted = set(rows)
        needed = [shard for shard in shards if wanted & set(shard.rows)]
        return {
            row: {target: values[index] for target, values in contents.items()}
            for shard, contents in self.read_shards(direction, needed)
            for index, row in enumerate(shard.rows)
            if row in wanted
        }
