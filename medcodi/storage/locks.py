"""A lock on a folder: one process at a time, released by the system when that process ends, killed or not."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


class LockedError(Exception):
    """Another process holds the lock; the message names it, where that is known."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, made with its folder, and removed at the end; with ``wait``, wait for another holder.

    Raises:
        LockedError: If another process holds it, unless ``wait``.
        OSError: If it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while (file := _acquired(path, wait)) is None:
        if not wait:
            raise LockedError(_holder(path))
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: a process that has opened it notices, and tries again
        file.close()


def _acquired(path: Path, wait: bool) -> TextIO | None:
    """The open file, locked; None: another process holds it, or has just removed it."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a file system without locks
        print(f"{path.parent} cannot be locked: make sure that no other process writes there", flush=True)
        return file
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    file.close()  # its holder has just removed it
    return None


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
