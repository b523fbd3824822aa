"""Make a cache: every rank encodes its parts, and a part that is finished is never done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medcodi.data.dataset import StudyDataset
from medcodi.distributed import Ranks
from medcodi.errors import DataError, one_of
from medcodi.model import MedCoDi
from medcodi.training.caching import files
from medcodi.training.caching.agreement import Agreement
from medcodi.training.caching.encoder import Encoder, null_record
from medcodi.training.caching.files import Note, Part
from medcodi.training.caching.key import PRECISIONS, CacheKey
from medcodi.training.caching.reading import EncodedStudies, open_cache

OnProgress = Callable[[int, int], None]  # studies encoded by all ranks, studies in all


def make_cache(
    model: MedCoDi,
    dataset: StudyDataset,
    folder: Path,
    key: CacheKey,
    *,
    processes: Ranks = Ranks(),
    batch_size: int = 64,
    num_workers: int = 0,
    overwrite: bool = False,
    verify: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> EncodedStudies:
    """Encode a dataset, or what is missing of it. Every rank calls this; the bytes do not depend on how many there are.

    Args:
        model: Whose autoencoders and prompt encoders are used; they are loaded only if there is something to encode.
        dataset: What is encoded, whole.
        folder: Of this cache: new, empty, or with an earlier one of the same key.
        key: Of this model and dataset.
        processes: The ranks.
        batch_size: Studies encoded at a time.
        num_workers: Ranks of each rank that read ahead.
        overwrite: Replace a cache of another key, or damaged parts.
        verify: Check every byte of what is there; else the size of files alone, and each row when it is read.
        on_progress: Told on the first rank.

    Returns:
        The cache, opened.

    Raises:
        DataError: If another cache or something else lies there, a study cannot be read or encoded, or the folder cannot be
            written: on every rank, whoever met it. Finished parts stay.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}", expected="at least 1")
    one_of("precision", key.precision, PRECISIONS, DataError)
    agreement = Agreement(processes)
    if agreement.by_first(lambda: _missing(folder, key, overwrite, verify)) is not None:
        with agreement.holding(folder):
            todo = agreement.by_first(lambda: _begin(folder, key, overwrite, verify)) or []
            mine = todo[processes.rank :: processes.world_size]
            encoder = Encoder(model, dataset, folder, key, batch_size, num_workers)
            told = partial(_tell, on_progress, folder, todo, len(dataset)) if processes.is_first else None
            try:
                agreement.by_each(lambda: encoder.encode(mine, told))
                agreement.by_first(lambda: _finish(model, folder, key))
            except DataError:
                if processes.is_first and not files.finished(folder, files.plan_parts(key.studies)):
                    files.remove(folder)
                raise
    return open_cache(folder, key, dataset)


# ---- beginning and end -----------------------------------------------------------------------------------------------
def _missing(folder: Path, key: CacheKey, overwrite: bool, verify: bool) -> list[Part] | None:
    """The parts that are still to be encoded; None if the cache is complete. Nothing is written."""
    info, parts = files.read_info(folder), files.plan_parts(key.studies)
    if info is None or (overwrite and CacheKey.from_json(info["key"]) != key):
        return parts
    CacheKey.from_json(info["key"]).check(folder, key)
    notes = files.finished(folder, parts)
    checked = verify or overwrite
    whole = [
        part
        for part in parts
        if part.index in notes and (not checked or files.is_intact(folder / part.file, notes[part.index].sha256))
    ]
    todo = [part for part in parts if part not in whole]
    if not info["complete"]:
        return todo
    damaged = [part.file for part in todo]
    if checked and not files.is_intact(folder / files.NULLS, info["nulls"]["sha256"]):
        damaged.append(files.NULLS)
    if damaged and not overwrite:
        raise DataError(
            f"{folder / damaged[0]} is missing, cut or damaged ({len(damaged)} of {len(parts) + 1} files are)",
            expected="the bytes that were written",
            fix="medcodi data cache … --overwrite encodes it again",
        )
    return todo if damaged else None


def _begin(folder: Path, key: CacheKey, overwrite: bool, verify: bool) -> list[Part] | None:
    """The same, with the folder ready for them and nobody else writing in it."""
    todo, info = _missing(folder, key, overwrite, verify), files.read_info(folder)
    if info is not None and CacheKey.from_json(info["key"]) != key:
        files.remove(folder)
        info = None
    if info is None:
        files.begin(folder, key)
    for stray in folder.glob(".*.partial"):  # of a process that was killed
        stray.unlink(missing_ok=True)
    return todo


def _finish(model: MedCoDi, folder: Path, key: CacheKey) -> None:
    """Encode the null prompts, and vouch for everything."""
    parts = files.plan_parts(key.studies)
    notes = files.finished(folder, parts)
    assert len(notes) == len(parts), "a part was taken away while others were written"
    rows = [{"file": part.file, **_told(notes[part.index])} for part in parts]
    present = {name: sum(note.present[name] for note in notes.values()) for name in key.modalities}
    nulls = {"file": files.NULLS, **files.write_array(folder / files.NULLS, null_record(model, key))}
    info = {"format": files.FORMAT, "complete": True, "key": key.to_json(), "present": present, "nulls": nulls}
    files.write_json(folder / files.INFO, {**info, "parts": rows})


def _told(note: Note) -> dict[str, Any]:
    return {"rows": note.rows, "bytes": note.bytes, "sha256": note.sha256}


def _tell(on_progress: OnProgress, folder: Path, todo: Sequence[Part], total: int, part: Part, done: int) -> None:
    """Count the studies of all ranks: by their notes, and this rank's own unfinished part."""
    left = sum(other.rows for other in todo if other != part and not (folder / other.note).exists())
    on_progress(total - left - part.rows + done, total)
