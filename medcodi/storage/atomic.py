"""Durable writes: a file or a folder appears under its name whole and flushed to the disk, or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, Unpack

from medcodi.errors import MedCoDiError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)
ABANDONED_S = 60.0  # age of a staging folder that may be of a killed process
_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial")


class Refusal(TypedDict, total=False):
    """How a write that fails is refused: the error's class, and what the user does once there is room."""

    error: type[MedCoDiError]
    then: str


# ---- files -----------------------------------------------------------------------------------------------------------
@contextmanager
def replacing(path: Path, **refusal: Unpack[Refusal]) -> Iterator[Path]:
    """A path in a hidden folder, for libraries that open files themselves; its file becomes ``path`` when the body ends.

    The folder of ``path`` is made. Where the body leaves no file, nothing happens; where it fails, what it wrote is removed.

    Raises:
        MedCoDiError: Of the class in ``refusal``, instead of an ``OSError``: a full disk, a read-only folder …
    """
    with refusing(path, **refusal), staging_folder(path) as staging:
        partial = staging / path.name
        yield partial
        if partial.exists():
            sync(partial)
            partial.replace(path)
            sync(path.parent)


@contextmanager
def writing(path: Path, **refusal: Unpack[Refusal]) -> Iterator[BinaryIO]:
    """An open binary file that becomes ``path`` when the body ends; otherwise as :func:`replacing`."""
    with replacing(path, **refusal) as partial, partial.open("xb") as file:
        yield file


def write_bytes(path: Path, data: Any, **refusal: Unpack[Refusal]) -> None:
    """Write bytes, or anything with a buffer."""
    with writing(path, **refusal) as file:
        file.write(data)


def write_text(path: Path, text: str, **refusal: Unpack[Refusal]) -> None:
    """Write UTF-8 text, line ends as they are."""
    write_bytes(path, text.encode(), **refusal)


def write_json(path: Path, value: Any, *, indent: int | None = 2, **refusal: Unpack[Refusal]) -> None:
    """Write JSON and a final line end."""
    write_text(path, json.dumps(value, indent=indent) + "\n", **refusal)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- folders ---------------------------------------------------------------------------------------------------------
@contextmanager
def filling(
    target: Path, *, within: Path | None = None, replace: bool = False, **refusal: Unpack[Refusal]
) -> Iterator[Path]:
    """A hidden folder in ``within`` (None: beside ``target``) that is published when the body ends, and removed where it fails."""
    with refusing(target, **refusal), staging_folder(target, within) as staging:
        try:
            yield staging
            publish_folder(staging, target, replace=replace, **refusal)
        except MedCoDiError as error:  # of a file in it: name the target instead
            if isinstance(error.__cause__, OSError) and staging.name in error.failed:
                raise error.__cause__ from None
            raise


@contextmanager
def staging_folder(target: Path, within: Path | None = None) -> Iterator[Path]:
    """A new hidden folder in ``within`` (None: beside ``target``), removed at the end if it is still there.

    ``target`` is a folder or a single file. Its staging folder is locked meanwhile. Those beside ``target`` that killed processes
    left are not, and are removed first.
    """
    if within is None:
        sweep_abandoned(target.parent, target.name)
    staging = partial_path((within or target.parent) / target.name)
    staging.mkdir(parents=True)
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: nobody sweeps there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield staging
    finally:
        os.close(descriptor)
        shutil.rmtree(staging, ignore_errors=True)


def sweep_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove what processes that have ended left in a folder of ``name``, or of any: staging folders, old partial files."""
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _PARTIAL.fullmatch(path.name)
        if match is None or (name is not None and match[1] != name[:50]):
            continue
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:  # one that has just been made may not be locked yet
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(path)
                finally:
                    os.close(descriptor)


def publish_folder(staging: Path, target: Path, *, replace: bool = False, **refusal: Unpack[Refusal]) -> None:
    """Flush everything in ``staging`` to the disk and rename it to ``target``, on the same file system.

    Without ``replace``, ``target`` must be absent or an empty folder. With it, the former one moves aside first and is removed
    last, so that at every moment one of the two is there; a process killed in between leaves it to :func:`recover`.

    Raises:
        MedCoDiError: Of the class in ``refusal``, if the folder cannot be written, or ``target`` holds something.
    """
    aside = _aside(target)
    with refusing(target, **refusal):
        # Flush the files and folders, then rename.
        for path in (*staging.rglob("*"), staging):
            sync(path)
        replaced = replace and target.exists()
        if replaced:
            target.rename(aside)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(target)
        except OSError:
            if replaced:
                aside.rename(target)
            raise
        sync(target.parent)
    remove(aside)


def recover(target: Path) -> None:
    """Undo what a process killed within :func:`publish_folder` left; only the holder of ``target`` may call this."""
    aside = _aside(target)
    if target.exists():
        remove(aside)
    elif aside.exists():
        aside.rename(target)


def sweep(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Remove the partial files and folders that killed processes left in ``folder``; only its holder may call this.

    ``names`` are patterns of the names that they would have got.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _PARTIAL.fullmatch(path.name)
        if match and any(fnmatchcase(match[1], name) for name in names):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# ---- names, flushing, refusals ---------------------------------------------------------------------------------------
def partial_path(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process uses, on any machine."""
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.partial")  # a name is at most 255 bytes


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.aside")


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems flush no folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def refusing(path: Path, **refusal: Unpack[Refusal]) -> Iterator[None]:
    """Turn an ``OSError`` into the refusal of :func:`unwritable`."""
    try:
        yield
    except OSError as cause:
        raise unwritable(path, cause, **refusal) from cause


def unwritable(path: Path, cause: OSError, **refusal: Unpack[Refusal]) -> MedCoDiError:
    """The refusal of a write that failed: the path, the reason, the free space and what to do."""
    try:
        existing = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = f"{shutil.disk_usage(existing).free / 2**30:.2f} GiB are free"
    except (OSError, StopIteration):
        free = "its free space is unknown"
    full = cause.errno in FULL
    return refusal.get("error", MedCoDiError)(
        f"{path} cannot be written: {cause.strerror or cause} ({free})",
        expected="room for it" if full else "a folder that can be written",
        fix=f"{'make room' if full else 'make it writable, or choose another folder'}, then {refusal.get('then', 'run it again')}",
    )
