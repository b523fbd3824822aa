"""What runs and caches ask of a disk: who may write in a folder, and what a failure to write means."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CANNOT_WRITE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)


class HeldError(Exception):
    """Another process holds the folder; the message says which, where that is known."""


def why_not_written(path: Path, error: OSError) -> str:
    """What a failed write says of itself, and how much room there is where ``path`` would lie."""
    try:
        place = next(place for place in path.absolute().parents if place.is_dir())
        free = f"{shutil.disk_usage(place).free / 2**30:.2f} GiB are free"
    except (OSError, StopIteration):
        free = "the file system cannot be asked"
    return f"{path} cannot be written: {error.strerror or error} ({free})"


def lock(file: Path) -> Any:
    """Hold a file, made with its folder if need be; the system lets go of it when the process ends, killed or not.

    Returns:
        The open file: closing it lets go. To take it away, do so before closing it.

    Raises:
        HeldError: If another process holds it, or is taking it away just now.
        OSError: If it cannot be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    held = file.open("a+", encoding="utf-8")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not file.exists() or not os.path.samestat(os.fstat(held.fileno()), file.stat()):
            raise BlockingIOError  # who held it is removing it just now
    except BlockingIOError:
        held.seek(0)
        holder = held.read().strip()
        held.close()
        raise HeldError(holder) from None
    except OSError:  # a file system without locks: nobody can be told apart there
        print(f"{file.parent} cannot be locked: see to it yourself that nobody else writes there", flush=True)
    held.truncate(0)
    held.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    held.flush()
    return held
