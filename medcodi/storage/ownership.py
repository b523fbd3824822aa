"""Nobody's files are lost: what is not proved to be ours is neither overwritten nor removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medcodi.errors import DataError, MedCoDiError


def is_full(folder: Path) -> bool:
    """Whether something is there already: a file, or a folder that is not empty."""
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def refuse_full(folder: Path, *, fix: str) -> None:
    """Refuse an output folder in which something is already.

    Raises:
        DataError: If it is a file, or not empty.
    """
    if is_full(folder):
        raise DataError(f"{folder} is not empty", expected="a new or empty folder", fix=fix)


def refuse_foreign(
    path: Path,
    is_ours: Callable[[Path], bool],
    *,
    what: str,
    fix: str,
    error: type[MedCoDiError] = DataError,
) -> None:
    """Refuse to replace what is at a path, unless it is ours; nothing, or an empty folder, may always be replaced.

    Args:
        path: A file or a folder.
        is_ours: Looks at what is there; whatever it raises on a broken file means no.
        what: For the message: ``"a page of MedCoDi"``.
        fix: What the user does instead: ``"choose another --out"``.
        error: Class of the refusal.

    Raises:
        MedCoDiError: Of class ``error``, if it is somebody else's.
    """
    try:
        if not path.is_symlink() and (not path.exists() or (path.is_dir() and not any(path.iterdir()))):
            return
        if is_ours(path):
            return
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # not what we write
        pass
    raise error(
        f"{path} is there already, and is not {what}",
        expected=f"a new name, or {what}, which is replaced",
        fix=f"{fix}, or move it elsewhere",
    )
