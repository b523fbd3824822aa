"""The answer key: stored in the custodian's folder only; its salted SHA-256 in the bundle proves that it is unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.storage.checked_json import foreign, parse_json, shown
from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.design.config import ReaderStudyConfig

FORMAT = 1
CUSTODIAN = "custodian"  # folder of the key within a bundle
KEY_FILE = "key.json"
README = """This folder is for the custodian only. Never give it to a reader.

key.json holds the answers: which item is real, which is generated, and where it is shown. Its salted SHA-256 is stored in every
reader's folder and in every result, which proves later that the key was not changed after the readers had answered.
Keep a second copy elsewhere: without the key no result can be read.

When the results are back:
    medcodi turing import results/*.json --key custodian --out table/
"""


@dataclass(frozen=True)
class AnswerKey:
    """An answer key."""

    values: Mapping[str, Any]  # contents of the file: format, bundle_id, salt, study, trials, items, provenance

    @property
    def bundle_id(self) -> str:
        """Id of the bundle."""
        return self.values["bundle_id"]

    @property
    def sha256(self) -> str:
        """SHA-256 of the salt and the canonical JSON of everything else."""
        rest = {name: value for name, value in self.values.items() if name != "salt"}
        return sha256_of(rest, salt=self.values["salt"])

    @property
    def study_sha256(self) -> str:
        """SHA-256 of the canonical JSON of the study's config."""
        return sha256_of(self.values["study"])

    @property
    def study(self) -> ReaderStudyConfig:
        """Config of the study as exported."""
        return from_dict(ReaderStudyConfig, dict(self.values["study"]), source="the study in the key")

    @property
    def trials(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Reader -> trial -> the item shown and its right answer."""
        return self.values["trials"]

    @property
    def items(self) -> Mapping[str, Mapping[str, Any]]:
        """Item -> its contents."""
        return self.values["items"]

    def save(self, folder: Path) -> None:
        """Write ``key.json`` and ``README.txt`` into a folder, readable by their owner only."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # before the key is in it, and whatever it was
        text = json.dumps(self.values, indent=1, ensure_ascii=False) + "\n"
        for name, content in ((KEY_FILE, text), ("README.txt", README)):
            (folder / name).write_text(content, encoding="utf-8")
            (folder / name).chmod(0o600)


def read_key(place: str | Path) -> AnswerKey:
    """Read a key, from the custodian's folder or its file.

    Raises:
        DataError: If it is missing or invalid.
    """
    path = Path(place)
    path = path / KEY_FILE if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"no key at {path}",
            expected="custodian/key.json, as written by the export",
            fix="give the custodian's folder, or its copy; without the key no result can be read",
        )
    try:
        values = parse_json(path.read_bytes(), str(path))
    except (OSError, DataError):
        values = None
    kinds = {"bundle_id": str, "salt": str, "study": dict, "trials": dict, "items": dict}
    if not isinstance(values, dict) or values.get("format") != FORMAT or not kinds.keys() <= values.keys():
        raise DataError(
            f"{path} is not a key", expected=f"format {FORMAT} with " + ", ".join(kinds), fix="use the copy of it"
        )
    # Its SHA-256 says whether it was changed; here, that it can be read at all.
    with foreign(str(path), expected="a key as medcodi turing export writes it", fix="use the copy of it"):
        for name, kind in kinds.items():
            if not isinstance(values[name], kind):
                raise TypeError(f"{name} is {shown(values[name])}")
        key = AnswerKey(values)
        items = [dict(item) for item in key.items.values()]
        entries = [dict(entry) for trials in key.trials.values() for entry in trials.values()]
        tasks = {task.id for task in key.study.tasks}
        if not all(isinstance(item["patients"], list) and isinstance(item["case"], str) for item in items):
            raise TypeError("an item without a case and patients")
        if not all(entry.get("item") in (None, *key.items) and entry["task"] in tasks for entry in entries):
            raise KeyError("a trial of an item or task that is not in it")
    return key
