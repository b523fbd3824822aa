"""The key is private, and proved unchanged by its salted hash."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.turing.bundle.canonical import canonical_json
from medcodi.turing.bundle.files import read_study_script
from medcodi.turing.bundle.key import AnswerKey, read_key


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


def test_the_key_is_readable_by_its_owner_only(bundle: Path) -> None:
    custodian = bundle / "custodian"
    assert stat.S_IMODE(custodian.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in custodian.iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (bundle / "readers").rglob("*.js")} == {0o644}


def test_a_key_is_saved_and_read_back(bundle: Path, tmp_path: Path) -> None:
    key = read_key(bundle / "custodian")
    (tmp_path / "copy").mkdir(mode=0o755)
    AnswerKey(dict(key.values)).save(tmp_path / "copy")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "copy", tmp_path / "copy" / "key.json")]
    assert modes == [0o700, 0o600]
    assert read_key(tmp_path / "copy" / "key.json") == key and read_key(tmp_path / "copy").sha256 == key.sha256
    assert "--key custodian" in (tmp_path / "copy" / "README.txt").read_text()


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    for text in ("{}", "[1]", "not JSON", json.dumps({"format": 2, "bundle_id": "", "salt": "", "study": {}})):
        (tmp_path / "key.json").write_text(text)
        with pytest.raises(DataError, match="is not a key"):
            read_key(tmp_path)


def test_a_key_of_the_version_before_is_read(bundle: Path) -> None:
    values = json.loads((bundle / "custodian" / "key.json").read_text())
    values["study"]["sampling"] = {"sampler": None, "num_inference_steps": 20, "guidance_scale": None, "batch_size": 8}
    study = AnswerKey(values).study
    assert (study.sampling.num_inference_steps, study.sampling.preset, study.sampling.joint) == (20, None, True)
