"""The answer key: written to the custodian's folder only, its salted SHA-256 in the bundle, so that it can be proved unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.design.config import ReaderStudyConfig

FORMAT = 1
KEY_FILE = "key.json"
README = """This folder is the custodian's. Readers never get it.

key.json holds the answers: which item is real, which is generated, and what is shown where. Its salted SHA-256 stands in every
reader's folder and in every result, which proves later that the key was not changed after the readers had answered.
Keep a copy in a second place: without it no result can be read.

When results come back:
    medcodi turing import results/*.json --key {folder} --out table/
"""


@dataclass(frozen=True)
class Key:
    """An answer key."""

    values: Mapping[str, Any]  # as in the file: format, bundle_id, salt, study, trials, items, provenance

    @property
    def bundle_id(self) -> str:
        """Which bundle it opens."""
        return self.values["bundle_id"]

    @property
    def sha256(self) -> str:
        """SHA-256 of the salt and the canonical JSON of all else."""
        rest = {name: value for name, value in self.values.items() if name != "salt"}
        return sha256_of(rest, salt=self.values["salt"])

    @property
    def study_sha256(self) -> str:
        """SHA-256 of the canonical JSON of the study file."""
        return sha256_of(self.values["study"])

    @property
    def study(self) -> ReaderStudyConfig:
        """The study as it was exported."""
        return from_dict(ReaderStudyConfig, dict(self.values["study"]), source="the study in the key")

    @property
    def trials(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Reader -> trial -> what was shown and what is right."""
        return self.values["trials"]

    @property
    def items(self) -> Mapping[str, Mapping[str, Any]]:
        """Item -> what it is made of."""
        return self.values["items"]

    def save(self, folder: Path) -> None:
        """Write ``key.json`` and ``README.txt`` into a folder that is there."""
        (folder / KEY_FILE).write_text(json.dumps(self.values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.txt").write_text(README.format(folder="custodian"), encoding="utf-8")


def read_key(place: str | Path) -> Key:
    """Read a key.

    Args:
        place: The custodian's folder, or the key file itself.

    Raises:
        DataError: If it is lost, or is not a key.
    """
    path = Path(place)
    path = path / KEY_FILE if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"no key at {path}",
            expected="custodian/key.json, as written by the export",
            fix="give the custodian's folder, or its copy; without the key no answer can be read",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None
    wanted = ("bundle_id", "salt", "study", "trials", "items")
    if not isinstance(values, dict) or values.get("format") != FORMAT or any(name not in values for name in wanted):
        raise DataError(
            f"{path} is not a key", expected=f"format {FORMAT} with " + ", ".join(wanted), fix="take the copy of it"
        )
    return Key(values)
