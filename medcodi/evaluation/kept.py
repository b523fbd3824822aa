"""Generated contents of directions: made in batches, kept in a folder, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from medcodi.data.generated_files import direction_folder
from medcodi.errors import DataError
from medcodi.evaluation.held_out import HeldOut, Value, eight_bit
from medcodi.generation.pipeline import generate_batch
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.model.generation_config import GenerationConfig
from medcodi.randomness import seed_from_keys
from medcodi.study import Direction


class Generated:
    """Generated contents of directions, kept in a folder so that a run that was stopped goes on where it was.

    A direction is one ``.npz`` (8-bit images, texts as UTF-8 JSON) with the key of what made it; another key is not used.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, direction: Direction) -> Path:
        """Where a direction lies."""
        return self.folder / f"{direction_folder(direction)}.npz"

    def read(self, direction: Direction) -> dict[str, list[Value]] | None:
        """What was generated, or None if there is nothing, or something made otherwise."""
        found = read_contents(self.path(direction), direction)
        return None if found is None or found[0] != self.key else found[1]

    def write(self, direction: Direction, contents: dict[str, list[Value]]) -> None:
        """Keep what was generated, all or nothing."""
        write_contents(self.path(direction), self.key, contents)


def read_contents(path: Path, direction: Direction) -> tuple[str, dict[str, list[Value]]] | None:
    """Key and contents of one file, or None if there is none, or it cannot be read."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays["key"]), {target: _values(target, arrays[target]) for target in direction.targets}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # cut short: it is generated again


def _values(target: str, array: np.ndarray) -> list[Value]:
    if MODALITIES[target].kind == "text":
        return list(json.loads(str(array)))
    return list(array.astype(np.float32) / 255)


def write_contents(path: Path, key: str, contents: dict[str, list[Value]]) -> None:
    """Write one file of contents, all or nothing."""
    arrays = {}
    for target, values in contents.items():
        is_text = MODALITIES[target].kind == "text"
        arrays[target] = (
            np.array(json.dumps(values))
            if is_text
            else np.stack([np.round(np.asarray(value) * 255).astype(np.uint8) for value in values])
        )
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), **arrays)
    partial.replace(path)


@dataclass(frozen=True)
class Block:
    """Some studies of one direction: worked on together, by one rank.

    Attributes:
        number: Its place among the blocks of the held-out studies.
        rows: The studies of it that the direction has.
    """

    number: int
    rows: tuple[int, ...]


def blocks_with(held: HeldOut, rows: Sequence[int]) -> list[Block]:
    """The blocks of the held-out studies that hold some of ``rows``."""
    wanted = set(rows)
    blocks = (Block(number, tuple(row for row in block if row in wanted)) for number, block in enumerate(held.blocks))
    return [block for block in blocks if block.rows]


class KeptSystem:
    """What one system generated, one file for each block and direction: ``<folder>/<direction>/00000.npz``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, direction: Direction, block: Block) -> Path:
        """Where a block lies."""
        return self.folder / direction_folder(direction) / f"{block.number:05d}.npz"

    def read(self, direction: Direction, block: Block, key: str | None = None) -> dict[str, list[Value]] | None:
        """A block's contents, or None if there are none, they cannot be read, or were made by another key."""
        found = read_contents(self.path(direction, block), direction)
        if found is None or (key is not None and found[0] != key):
            return None
        return found[1] if all(len(values) == len(block.rows) for values in found[1].values()) else None

    def write(self, direction: Direction, block: Block, key: str, contents: dict[str, list[Value]]) -> None:
        """Keep a block, all or nothing."""
        path = self.path(direction, block)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_contents(path, key, contents)

    def contents(self, direction: Direction, blocks: Sequence[Block]) -> Iterator[tuple[Block, dict[str, list[Value]]]]:
        """Block by block what was kept, so that memory does not grow with the studies.

        Raises:
            DataError: If a block is missing or damaged.
        """
        for block in blocks:
            found = self.read(direction, block)
            if found is None:
                raise DataError(
                    f"{self.path(direction, block)} is missing or damaged",
                    expected=f"{len(block.rows)} generated studies of {direction}",
                    fix="run the evaluation again: it goes on where it was",
                )
            yield block, found

    def of_rows(
        self, direction: Direction, blocks: Sequence[Block], rows: Sequence[int]
    ) -> dict[int, dict[str, Value]]:
        """Contents of some studies: row -> target -> value."""
        wanted = set(rows)
        needed = [block for block in blocks if wanted & set(block.rows)]
        return {
            row: {target: values[place] for target, values in contents.items()}
            for block, contents in self.contents(direction, needed)
            for place, row in enumerate(block.rows)
            if row in wanted
        }


def generate_direction(
    model: MedCoDi,
    direction: Direction,
    held: HeldOut,
    rows: Sequence[int],
    settings: GenerationConfig,
    seed: int,
    batch_size: int,
    on_studies: Callable[[int], None] = lambda done: None,
) -> dict[str, list[Value]]:
    """Generate the targets of a direction for some studies; each has its own seed, a function of (seed, study).

    Returns:
        Target -> one value for each of ``rows``; images rounded to 8 bits, as files would hold them.
    """
    contents: dict[str, list[Value]] = {target: [] for target in direction.targets}
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        prompts = [{name: held.studies[row].contents[name] for name in direction.prompts} for row in chosen]
        seeds = [seed_from_keys("evaluate", seed, held.ids[row]) for row in chosen]
        for made in generate_batch(model, prompts, direction.targets, seeds, settings):
            for target in direction.targets:
                value = made[target]
                contents[target].append(value if isinstance(value, str) else eight_bit(value))
        on_studies(len(chosen))
    return contents
