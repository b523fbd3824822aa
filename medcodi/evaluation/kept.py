"""Generated contents of directions: made in batches, kept in a folder, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from medcodi.evaluation.held_out import HeldOut, Value, eight_bit
from medcodi.generation import GenerationSettings, generate_batch
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.randomness import seed_from_keys
from medcodi.study import Direction


def slug(direction: Direction) -> str:
    """A file name for a direction: ``frontal+report_to_lateral``."""
    return ("+".join(direction.prompts) or "nothing") + "_to_" + "+".join(direction.targets)


class Generated:
    """Generated contents of directions, kept in a folder so that a run that was stopped goes on where it was.

    A direction is one ``.npz`` (8-bit images, texts as UTF-8 JSON) with the key of what made it; another key is not used.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, direction: Direction) -> dict[str, list[Value]] | None:
        """What was generated, or None if there is nothing, or something made otherwise."""
        path = self.folder / f"{slug(direction)}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if str(arrays["key"]) != self.key:
                    return None
                return {target: self._values(target, arrays[target]) for target in direction.targets}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None  # cut short: it is generated again

    @staticmethod
    def _values(target: str, array: np.ndarray) -> list[Value]:
        if MODALITIES[target].kind == "text":
            return list(json.loads(str(array)))
        return list(array.astype(np.float32) / 255)

    def write(self, direction: Direction, contents: dict[str, list[Value]]) -> None:
        """Keep what was generated, all or nothing."""
        arrays = {}
        for target, values in contents.items():
            is_text = MODALITIES[target].kind == "text"
            arrays[target] = (
                np.array(json.dumps(values))
                if is_text
                else np.stack([np.round(np.asarray(value) * 255).astype(np.uint8) for value in values])
            )
        path = self.folder / f"{slug(direction)}.npz"
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, key=np.array(self.key), **arrays)
        partial.replace(path)


def generate_direction(
    model: MedCoDi,
    direction: Direction,
    held: HeldOut,
    rows: Sequence[int],
    settings: GenerationSettings,
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
        seeds = [seed_from_keys("evaluate", seed, held.studies[row].study_id) for row in chosen]
        for made in generate_batch(model, prompts, direction.targets, seeds, settings):
            for target in direction.targets:
                value = made[target]
                contents[target].append(value if isinstance(value, str) else eight_bit(value))
        on_studies(len(chosen))
    return contents
