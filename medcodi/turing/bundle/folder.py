"""A bundle as it is handed out, read back: each reader's folder and archive, as they lie there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcodi.errors import DataError
from medcodi.turing.bundle.payload import read_study_script


@dataclass(frozen=True)
class ReaderFolder:
    """What one reader gets."""

    name: str  # `reader-01`
    path: Path  # its folder
    archive: Path | None  # its zip, or None
    study: dict[str, Any]  # the object in `study.js`

    def files(self) -> list[Path]:
        """Every file below the folder, by name."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def payload_files(self) -> list[Path]:
        """Every script in ``payloads/``."""
        return [path for path in self.files() if path.parent == self.path / "payloads" and path.suffix == ".js"]

    def payload_ids(self) -> list[str]:
        """Ids of the payloads in the order shown."""
        return [panel["payload"] for trial in self.study["trials"] for panel in trial["panels"]]


@dataclass(frozen=True)
class Bundle:
    """Readers' folders, and the public facts where they are there."""

    path: Path
    facts: dict[str, Any]
    readers: list[ReaderFolder]


def open_bundle(place: str | Path) -> Bundle:
    """Open a bundle, or the folder of one reader.

    Raises:
        DataError: If it is neither.
    """
    path = Path(place)
    folders = (
        [path]
        if (path / "study.js").is_file()
        else sorted(child for child in (path / "readers").glob("*") if child.is_dir())
    )
    if not folders:
        raise DataError(
            f"{path} is no bundle",
            expected="a folder with readers/reader-01/study.js, as 'medcodi turing export' writes it",
            fix="give the folder named by --out",
        )
    readers = []
    for folder in folders:
        archive = folder.with_name(folder.name + ".zip")
        study = read_study_script(folder / "study.js")
        if not isinstance(study.get("trials"), list) or not isinstance(study.get("tasks"), list):
            raise DataError(f"{folder / 'study.js'} has no trials", expected="study.js as exported")
        readers.append(ReaderFolder(folder.name, folder, archive if archive.is_file() else None, study))
    try:
        facts = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    return Bundle(path, facts, readers)
