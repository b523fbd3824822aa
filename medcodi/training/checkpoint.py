"""Checkpoints: safetensors and JSON, checksummed, each whole or not there, and written by a thread beside the run."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from medcodi.errors import CheckpointError
from medcodi.model.components import write_weights
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder, JobKind, damage, file_row
from medcodi.storage.names import stays_inside
from medcodi.training.config import CheckpointConfig

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
CHECKPOINTS = JobKind(
    name="checkpoints",
    index_file="",
    own_patterns=("step-*",),
    record_file="{shard}/" + MANIFEST,
    error=CheckpointError,
    resume="resume with --resume latest: the checkpoints before it are whole",
)
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to continue as if it had never stopped."""

    # file stem (``weights``, ``buffers``, ``ema``, ``optimizer``) -> name -> tensor on the CPU
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]  # plain values: step, identity of the run, unfinished means, loss scale

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])


# ---- writing ---------------------------------------------------------------------------------------------------------
def save(folder: Path, checkpoint: Checkpoint, *, keep: int, keep_every: int = 0) -> Path:
    """Write a checkpoint as ``folder/step-00000100``; the ``keep`` newest stay, and those at multiples of ``keep_every``.

    Raises:
        CheckpointError: If it cannot be written (a full disk); nothing of it stays, and those before it are as they were.
    """
    put_back(folder)
    name = f"step-{checkpoint.step:08d}"
    JobFolder(folder, CHECKPOINTS).write(name, lambda staging: _fill(staging, checkpoint), replace=True)

    # Remove later steps (damaged, or of a run that was resumed before them), and all but the newest of the others.
    at = {path: _step_of(path) for path in finished(folder)}
    for later in (path for path, step in at.items() if step > checkpoint.step):
        _remove(later)
    for old in [path for path, step in at.items() if step <= checkpoint.step][:-keep]:
        if not keep_every or at[old] % keep_every:
            _remove(old)
    return folder / name


def _fill(staging: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Write the files; returns the manifest."""
    files: dict[str, dict[str, Any]] = {}
    for stem, tensors in checkpoint.tensors.items():
        path = staging / f"{stem}.safetensors"
        specs = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        entry = write_weights(path, specs, tensors.__getitem__)
        files[path.name] = {"sha256": entry["sha256"], "bytes": path.stat().st_size}
    atomic.write_json(staging / STATE, checkpoint.state, indent=1)
    files[STATE] = file_row(staging / STATE)
    return {"format": FORMAT, "step": checkpoint.step, "files": dict(sorted(files.items()))}


def _remove(path: Path) -> None:
    """Remove under a hidden name, so that half of one is never taken for a damaged one."""
    hidden = atomic.partial_path(path)
    path.rename(hidden)
    atomic.remove(hidden)


def put_back(folder: Path) -> None:
    """Undo what a kill left half done; only the run that holds the folder may call this."""
    # A checkpoint that had moved aside for another comes back; unfinished ones are removed.
    for aside in folder.glob(".step-*.aside"):
        atomic.recover(folder / aside.name.removeprefix(".").removesuffix(".aside"))
    for stale in folder.glob(".step-*.partial"):
        atomic.remove(stale)


class CheckpointWriter:
    """Writes one checkpoint at a time, in a thread of its own.

    At most one snapshot is in memory if :meth:`finish` is called before the next is taken.
    """

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        self._folder, self._config = folder, config
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, snapshot: Checkpoint) -> None:
        """Start writing; returns at once, unless the one before is still being written, and raises its error.

        The snapshot's tensors must be the writer's own: nobody changes them any more.
        """
        self.finish()
        # The run changes its own means meanwhile.
        snapshot = Checkpoint(snapshot.tensors, copy.deepcopy(snapshot.state))
        # Not a daemon: an interpreter that ends in order waits for it.
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint writer")
        self._thread.start()
        if not self._config.background:
            self.finish()

    def _write(self, snapshot: Checkpoint) -> None:
        try:
            save(self._folder, snapshot, keep=self._config.keep, keep_every=self._config.keep_every)
        except BaseException as error:
            self._error = error

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise the error of the thread, if there is one."""
        if self._error is None:
            return
        error, self._error = self._error, None
        if isinstance(error, CheckpointError):
            raise error
        raise CheckpointError(
            f"a checkpoint could not be written: {type(error).__name__}: {error}", fix=CHECKPOINTS.resume
        ) from error

    def finish(self, timeout: float | None = None) -> None:
        """Wait until everything is on the disk, at most ``timeout`` seconds (None: without limit); then :meth:`check`."""
        if self._thread is not None:
            self._thread.join(timeout)
            if not self._thread.is_alive():
                self._thread = None
        self.check()


# ---- reading ---------------------------------------------------------------------------------------------------------
def finished(folder: Path) -> list[Path]:
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
    # Read the manifest.
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = {
            name: {"bytes": int(row["bytes"]), "sha256": str(row["sha256"])} for name, row in manifest["files"].items()
        }
        if not all(map(stays_inside, files)):
            raise ValueError
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
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
    # Check every byte, then read.
    for name, row in files.items():
        if problem := damage(path / name, row):
            raise CheckpointError(
                f"{path / name} is damaged: {problem}",
                expected=f"{row['bytes']} bytes with the checksum in {MANIFEST}",
                fix="resume from an older one, by its path",
            )
    tensors = {Path(name).stem: load_file(path / name) for name in files if name.endswith(".safetensors")}
    return Checkpoint(tensors, json.loads((path / STATE).read_text(encoding="utf-8")))


def load_latest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, None where there is none at all; damaged ones after it are named through ``say``."""
    candidates = finished(folder)
    for path in reversed(candidates):
        try:
            return load(path)
        except CheckpointError as error:
            say(f"{error.failed}; going back to the one before")
    if candidates:
        raise CheckpointError(
            f"no checkpoint in {folder} is whole ({len(candidates)} damaged)", fix="start again in another folder"
        )
    return None
