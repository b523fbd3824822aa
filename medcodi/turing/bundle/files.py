"""The files of a bundle: all or nothing, fixed times, fixed order, nothing in the archives that tells two payloads apart."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from medcodi.errors import DataError

FIXED_TIME = 946_684_800  # 2000-01-01 00:00:00 UTC, of every file
FIXED_DATE = (2000, 1, 1, 0, 0, 0)  # the same in archives
VIEWER_SUFFIXES = (".html", ".js", ".css")


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of ``out`` once all is well, and vanishes otherwise.

    Raises:
        DataError: If ``out`` holds something, or cannot be made.
    """
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DataError(f"{out} is not empty", expected="a new or empty folder", fix="choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise DataError(f"{out} cannot be made: {error.strerror}", fix="choose a folder that can be written") from None
    try:
        yield staging
        staging.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def viewer_files() -> dict[str, bytes]:
    """The viewer: path below a reader's folder -> bytes."""
    found: dict[str, bytes] = {}

    def collect(place: Traversable, prefix: str) -> None:
        for child in place.iterdir():
            if child.is_dir() and not child.name.startswith(("_", ".")):
                collect(child, f"{prefix}{child.name}/")
            elif child.is_file() and child.name.endswith(VIEWER_SUFFIXES):
                found[prefix + child.name] = child.read_bytes()

    place = files("medcodi.turing") / "viewer"
    if place.is_dir():
        collect(place, "")
    return dict(sorted(found.items()))


def seal(folder: Path) -> None:
    """Give every file and folder below ``folder``, and itself, the one time and plain permissions."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (FIXED_TIME, FIXED_TIME))
    os.utime(folder, (FIXED_TIME, FIXED_TIME))


def zip_folder(folder: Path) -> Path:
    """Write ``folder.zip`` beside a folder: entries by name, one time, stored, for packed sizes would tell images apart."""
    archive = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        named = {
            f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()
        }
        for name, path in sorted(named.items()):
            entry = zipfile.ZipInfo(name, FIXED_DATE)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            with path.open("rb") as source, opened.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return archive
