"""Checkpoints: safetensors and JSON, checksummed, and either whole or not there."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from medcodi.errors import CheckpointError
from medcodi.model.components import sha256_file, write_weights
from medcodi.storage import disk

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        tensors: File stem (``weights``, ``buffers``, ``ema``, ``optimizer``) -> name -> tensor on the CPU.
        state: Plain values: step, identity of the run, unfinished means, loss scale.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems flush no folders
            raise
    finally:
        os.close(descriptor)


def save(folder: Path, checkpoint: Checkpoint, *, keep: int, keep_every: int = 0) -> Path:
    """Write a checkpoint below ``folder`` under a temporary name, flush it, rename it, then remove the oldest.

    This one is the newest now: those of later steps are damaged, or of a run that was taken up again before them, and go.

    Args:
        folder: The run's ``checkpoints`` folder.
        checkpoint: What to write.
        keep: The newest so many stay.
        keep_every: Those of every so many steps stay too; 0: none.

    Returns:
        The checkpoint's folder, ``step-00000100``.

    Raises:
        CheckpointError: If it cannot be written (a full disk); nothing of it stays, and those before it are as they were.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    staging = folder / f".{final.name}.partial"
    try:
        put_back(folder)
        staging.mkdir(parents=True)
        _fill(staging, checkpoint)
        _put_in_place(staging, final)
    except OSError as error:
        raise not_written(final, error) from error
    except CheckpointError as error:  # of the weights' writer
        if isinstance(error.__context__, OSError):
            raise not_written(final, error.__context__) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # not there any more, unless something went wrong
    at = {path: _step_of(path) for path in found(folder)}
    for later in (path for path, step in at.items() if step > checkpoint.step):
        _remove(later)
    for old in [path for path, step in at.items() if step <= checkpoint.step][:-keep]:
        if not keep_every or at[old] % keep_every:
            _remove(old)
    return final


def _fill(staging: Path, checkpoint: Checkpoint) -> None:
    files: dict[str, dict[str, Any]] = {}
    for stem, tensors in checkpoint.tensors.items():
        specs = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        told = write_weights(staging / f"{stem}.safetensors", specs, tensors.__getitem__)
        files[told["file"]] = {"sha256": told["sha256"]}
    (staging / STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    files[STATE] = {"sha256": sha256_file(staging / STATE)}
    for name, row in files.items():
        row["bytes"] = (staging / name).stat().st_size
    manifest = {"format": FORMAT, "step": checkpoint.step, "files": dict(sorted(files.items()))}
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (*sorted(staging.iterdir()), staging):
        _sync(path)


def _put_in_place(staging: Path, final: Path) -> None:
    """A checkpoint of the same step moves aside first and is removed last: at every moment one of the two is there."""
    aside = final.with_name(f".{final.name}.aside")
    if final.exists():
        final.rename(aside)
    staging.rename(final)
    _sync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    """Under a hidden name, so that half of one is never taken for a damaged one."""
    hidden = path.with_name(f".{path.name}.partial")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Undo what a kill left half done: unfinished checkpoints go, and one that had moved aside for another comes back.

    Only the run that holds the folder may call this.
    """
    for aside in folder.glob(".step-*.aside"):
        final = folder / aside.name.removeprefix(".").removesuffix(".aside")
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)
    for stale in folder.glob(".step-*.partial"):
        shutil.rmtree(stale, ignore_errors=True)


def not_written(path: Path, error: OSError) -> CheckpointError:
    """What to say when a file of a run cannot be written."""
    full = error.errno in disk.FULL
    return CheckpointError(
        disk.why_not_written(path, error),
        expected="room for it" if full else "a folder that can be written",
        fix=f"{'make room' if full else 'fix the folder'}, and go on with --resume latest: the checkpoints before it are whole",
    )


def found(folder: Path) -> list[Path]:
    """The checkpoints below a run's ``checkpoints`` folder, oldest first; unfinished ones are not among them."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint after checking every byte against its manifest.

    Raises:
        CheckpointError: If it is missing, cut short, changed, or of another format.
    """
    fix = "resume from an older one, by its path"
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"no checkpoint at {path}",
            expected=f"a folder with {MANIFEST}",
            fix="check the path; --resume latest finds the newest",
        ) from None
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest.get('format')!r}",
            expected=f"format {FORMAT}",
            fix="train with the version that wrote it",
        )
    for name, expected in files.items():
        damage = _damage(path / name, expected)
        if damage:
            raise CheckpointError(
                f"{path / name} is damaged: {damage}",
                expected=f"{expected['bytes']} bytes with the checksum in {MANIFEST}",
                fix=fix,
            )
    tensors = {Path(name).stem: load_file(path / name) for name in files if name.endswith(".safetensors")}
    return Checkpoint(tensors, json.loads((path / STATE).read_text(encoding="utf-8")))


def _damage(file: Path, expected: Mapping[str, Any]) -> str:
    """What is wrong with a file of a checkpoint, in words; empty: nothing."""
    try:
        size = file.stat().st_size if file.is_file() else None
        if size != expected["bytes"]:
            return f"{'no' if size is None else size} bytes"
        return "" if sha256_file(file) == expected["sha256"] else f"{size} bytes, some of them changed"
    except OSError as error:  # a sector that the disk gives back no more
        return f"it cannot be read, {error.strerror or error}"


def load_latest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones before it are named through ``say``. None: there is none at all.

    Raises:
        CheckpointError: If there are checkpoints and every one is damaged.
    """
    candidates = found(folder)
    problems = []
    for path in reversed(candidates):
        try:
            return load(path)
        except CheckpointError as error:
            problems.append(str(error))
            say(f"{error.failed}; going back to the one before")
    if candidates:
        raise CheckpointError(
            f"no checkpoint in {folder} is whole ({len(candidates)} damaged)", fix="start again in another folder"
        )
    return None
