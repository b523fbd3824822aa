"""Saving beside the training: a snapshot is handed over, a thread writes it, and what goes wrong there is not lost."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

from medcodi.errors import CheckpointError
from medcodi.training import checkpoint
from medcodi.training.checkpoint import Checkpoint
from medcodi.training.config import CheckpointConfig


class CheckpointWriter:
    """Writes one checkpoint at a time, in a thread of its own.

    At most one snapshot is in memory beside the run if :meth:`finish` is called before the next is taken.
    """

    def __init__(self, folder: Path, options: CheckpointConfig) -> None:
        self._folder, self._options = folder, options
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, snapshot: Checkpoint) -> None:
        """Start writing; returns at once, unless the one before is still being written.

        Args:
            snapshot: Its tensors must be the writer's own: nobody changes them any more.

        Raises:
            CheckpointError: If the one before could not be written.
        """
        self.finish()
        snapshot = Checkpoint(snapshot.tensors, copy.deepcopy(snapshot.state))  # the run goes on counting in these
        # Not a daemon: an interpreter that ends in order waits for it.
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint writer")
        self._thread.start()
        if not self._options.background:
            self.finish()

    def _write(self, snapshot: Checkpoint) -> None:
        try:
            checkpoint.save(self._folder, snapshot, keep=self._options.keep, keep_every=self._options.keep_every)
        except BaseException as error:
            self._error = error

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything has.

        Raises:
            CheckpointError: If the last checkpoint could not be written.
        """
        if self._error is None:
            return
        error, self._error = self._error, None
        if isinstance(error, CheckpointError):
            raise error
        raise CheckpointError(
            f"a checkpoint could not be written: {type(error).__name__}: {error}",
            fix="go on with --resume latest: the checkpoints before it are whole",
        ) from error

    def finish(self, timeout: float | None = None) -> None:
        """Wait until everything is on the disk.

        Args:
            timeout: Seconds after which waiting ends all the same; None: never.

        Raises:
            CheckpointError: If the last checkpoint could not be written.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            if not self._thread.is_alive():
                self._thread = None
        self.check()
