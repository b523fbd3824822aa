"""Files of a bundle, written and read back: ``study.js``, the viewer, and the archive of each reader's folder.

Whatever could tell two payloads apart is equal: file times, permissions, the order of archive entries, and no compression; ``payloads``
gives all images one length, and all texts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from medcodi.errors import DataError
from medcodi.storage import atomic
from medcodi.storage.checked_json import foreign, parse_json
from medcodi.storage.names import plain_name
from medcodi.storage.ownership import refuse_full

FIXED_TIME = 946_684_800  # time of every file: 2000-01-01 00:00:00 UTC
FIXED_DATE = (2000, 1, 1, 0, 0, 0)  # the same in archives
PAYLOADS = "payloads"  # folder of the payload scripts
READER_STUDY = "study.js"
VIEWER_SUFFIXES = (".html", ".js", ".css")
_STUDY_CALL = re.compile(r"MEDCODI_STUDY = (\{.*\});\n?", re.DOTALL)


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A hidden folder to fill; it becomes ``out`` when the body ends, whole and flushed, or nothing of it stays.

    Raises:
        DataError: If ``out`` is not empty, or the disk is full or read-only.
    """
    with atomic.filling(check_empty(out), error=DataError) as staging:
        yield staging


def check_empty(out: str | Path) -> Path:
    """Refuse a path that holds something already."""
    refuse_full(Path(out), fix="choose another --out")
    return Path(out)


# ---- writing ---------------------------------------------------------------------------------------------------------
def study_script(study: dict) -> bytes:
    """``study.js``: an assignment."""
    return f"MEDCODI_STUDY = {json.dumps(study, ensure_ascii=True, separators=(',', ':'))};\n".encode("ascii")


def viewer_files() -> dict[str, bytes]:
    """Files of the viewer: path relative to a reader's folder -> bytes."""
    contents: dict[str, bytes] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for child in folder.iterdir():
            if child.is_dir() and not child.name.startswith(("_", ".")):
                collect(child, f"{prefix}{child.name}/")
            elif child.is_file() and child.name.endswith(VIEWER_SUFFIXES):
                contents[prefix + child.name] = child.read_bytes()

    collect(files("medcodi.pages") / "viewer", "")  # what every viewer of ours shares
    collect(files("medcodi.turing") / "viewer", "")
    return dict(sorted(contents.items()))


def seal(folder: Path, *, private: str = "") -> None:
    """Give a folder and everything in it one time and plain permissions; those in ``private``, a folder in it, are the owner's."""
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder after its files, which change its time
        mode = 0o755 if path.is_dir() else 0o644
        path.chmod(mode & 0o700 if path.relative_to(folder).parts[0] == private else mode)
        os.utime(path, (FIXED_TIME, FIXED_TIME))
    os.utime(folder, (FIXED_TIME, FIXED_TIME))


def zip_folder(folder: Path) -> Path:
    """Write ``folder.zip`` beside a folder: entries by name, with one time, uncompressed, because compressed sizes differ."""
    archive = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        named = {
            f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()
        }
        for name, path in sorted(named.items()):
            entry = zipfile.ZipInfo(name, FIXED_DATE)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, whatever the system
            with path.open("rb") as source, opened.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return archive


# ---- reading ---------------------------------------------------------------------------------------------------------
def read_study_script(path: Path) -> dict[str, Any]:
    """Read ``study.js``.

    Raises:
        DataError: If it is missing or invalid.
    """
    try:
        match = _STUDY_CALL.fullmatch(path.read_text(encoding="utf-8"))
        study = parse_json(match.group(1).encode(), str(path)) if match else None
    except (OSError, ValueError, DataError):
        study = None
    if not isinstance(study, dict):
        raise DataError(
            f"no study in {path}", expected=f"{READER_STUDY} as exported", fix="give the folder of a bundle"
        )
    return study


@dataclass(frozen=True)
class ReaderFolder:
    """Folder and archive that one reader gets."""

    name: str  # `reader-01`
    path: Path
    archive: Path | None  # its zip file, if present
    study: dict[str, Any]  # the object in `study.js`

    def files(self) -> list[Path]:
        """Every file in the folder, by name."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def payload_files(self) -> list[Path]:
        """Every script in ``payloads/``."""
        return [path for path in self.files() if path.parent == self.path / PAYLOADS and path.suffix == ".js"]

    def payload_ids(self) -> list[str]:
        """Ids of the payloads in the order shown."""
        return [panel["payload"] for trial in self.study["trials"] for panel in trial["panels"]]


@dataclass(frozen=True)
class ReaderBundle:
    """The folders of all readers, and the public facts about the bundle."""

    path: Path
    facts: dict[str, Any]  # `bundle.json`; empty if it is missing
    readers: list[ReaderFolder]


def open_bundle(path: str | Path) -> ReaderBundle:
    """Open a bundle, or the folder of one reader.

    Raises:
        DataError: If it is neither.
    """
    path = Path(path)
    one_reader = (path / READER_STUDY).is_file()
    folders = [path] if one_reader else sorted(child for child in (path / "readers").glob("*") if child.is_dir())
    if not folders:
        raise DataError(
            f"{path} is no bundle",
            expected=f"a folder with readers/reader-01/{READER_STUDY}, as 'medcodi turing export' writes it",
            fix="give the folder named by --out",
        )
    readers = []
    for folder in folders:
        archive = folder.with_name(folder.name + ".zip")
        study = read_study_script(folder / READER_STUDY)
        if not isinstance(study.get("trials"), list) or not isinstance(study.get("tasks"), list):
            raise DataError(f"{folder / READER_STUDY} has no trials", expected=f"{READER_STUDY} as exported")
        readers.append(ReaderFolder(folder.name, folder, archive if archive.is_file() else None, study))
        with foreign(str(folder / READER_STUDY), expected=f"{READER_STUDY} as exported", fix="export again"):
            for trial in study["trials"]:
                for panel in trial["panels"]:
                    plain_name(panel["payload"], str(folder / READER_STUDY))
    try:
        facts = parse_json((path / "bundle.json").read_bytes(), "bundle.json")
    except (OSError, DataError):
        facts = {}
    return ReaderBundle(path, facts if isinstance(facts, dict) else {}, readers)
