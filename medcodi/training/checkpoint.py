"""Checkpoints: safetensors and JSON, checksummed, and either whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from medcodi.errors import CheckpointError

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
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint below ``folder`` under a temporary name, flush it, rename it, then remove the oldest.

    Args:
        folder: The run's ``checkpoints`` folder.
        checkpoint: What to write.
        keep: The newest so many stay.

    Returns:
        The checkpoint's folder, ``step-00000100``.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    staging = folder / f".{final.name}.partial"
    for stale in folder.glob(".step-*.partial"):
        shutil.rmtree(stale)
    staging.mkdir(parents=True)
    for stem, tensors in checkpoint.tensors.items():
        save_file(dict(tensors), staging / f"{stem}.safetensors")
    (staging / STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    written = sorted(path for path in staging.iterdir())
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in written}
    manifest = {"format": FORMAT, "step": checkpoint.step, "files": files}
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (*written, staging / MANIFEST, staging):
        _sync(path)
    if final.exists():
        shutil.rmtree(final)
    staging.rename(final)
    _sync(folder)
    for old in found(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def found(folder: Path) -> list[Path]:
    """The checkpoints below a run's ``checkpoints`` folder, oldest first; unfinished ones are not among them."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=lambda path: int(path.name[5:])
    )


def load(path: Path) -> Checkpoint:
    """Read a checkpoint after checking every byte against its manifest.

    Raises:
        CheckpointError: If it is missing, cut short, changed, or of another format.
    """
    mend = "resume from an older one, by its path"
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"no checkpoint at {path}",
            expected=f"a folder with {MANIFEST}",
            mend="check the path; --resume latest finds the newest",
        ) from None
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest.get('format')!r}",
            expected=f"format {FORMAT}",
            mend="train with the version that wrote it",
        )
    for name, expected in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"] or _digest(file) != expected["sha256"]:
            size = file.stat().st_size if file.is_file() else "no"
            raise CheckpointError(
                f"{file} is damaged: {size} bytes",
                expected=f"{expected['bytes']} bytes with the checksum in {MANIFEST}",
                mend=mend,
            )
    tensors = {Path(name).stem: load_file(path / name) for name in files if name.endswith(".safetensors")}
    return Checkpoint(tensors, json.loads((path / STATE).read_text(encoding="utf-8")))


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
            f"no checkpoint in {folder} is whole ({len(candidates)} damaged)", mend="start again in another folder"
        )
    return None
