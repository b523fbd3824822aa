"""The key is private, and proved unchanged by its salted hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from medcodi.turing.bundle.canonical import canonical_json
from medcodi.turing.bundle.files import read_study_script
from medcodi.turing.bundle.key import read_key


def read_study(folder: Path) -> dict:
    return read_study_script(folder / "study.js")


def test_the_key_is_proved_by_its_salted_hash(bundle: Path) -> None:
    key = read_key(bundle / "custodian")
    values = json.loads((bundle / "custodian" / "key.json").read_text())
    salt = values.pop("salt")
    right = hashlib.sha256((salt + canonical_json(values)).encode()).hexdigest()
    facts = json.loads((bundle / "bundle.json").read_text())
    assert key.sha256 == right == facts["key_sha256"] == read_study(bundle / "readers" / "reader-02")["key_sha256"]
    values["trials"]["reader-01"] = {}
    assert hashlib.sha256((salt + canonical_json(values)).encode()).hexdigest() != right
