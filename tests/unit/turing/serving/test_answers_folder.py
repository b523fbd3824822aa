"""What may be served, and from where: never beside the key, never with another viewer, never into other answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medcodi.app.cli import main
from medcodi.errors import DataError
from medcodi.turing.bundle.files import open_bundle
from medcodi.turing.serving.answers_folder import PROGRESS, opened_answers, reader_links
from tests.unit.turing.result_files import answered


def refused(bundle: Path, out: Path, match: str) -> None:
    with pytest.raises(DataError, match=match), opened_answers(out, open_bundle(bundle)):
        pass


@pytest.fixture
def copy(served: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(served, tmp_path / "copy" / "served"))


def test_the_key_is_refused_wherever_it_is(
    bundle: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(bundle, tmp_path / "answers", "the answer key is at .*custodian/key.json.*keep custodian/ elsewhere")
    refused(bundle / "readers" / "reader-01", tmp_path / "answers", "the answer key is at")  # two folders above
    shutil.copy(bundle / "custodian" / "key.json", copy / "readers" / "notes.bak")  # under another name
    refused(copy, tmp_path / "answers", "notes.bak")
    (tmp_path / "answers").mkdir()
    (copy / "readers" / "notes.bak").rename(tmp_path / "answers" / "key.json")
    refused(copy, tmp_path / "answers", "the answer key is at .*answers/key.json")
    with pytest.raises(SystemExit) as stop:
        main(["turing", "serve", str(bundle), "--out", str(tmp_path / "new")])
    assert stop.value.code == 2 and not (tmp_path / "new").exists()
    assert "Fix: copy only readers/" in capsys.readouterr().err


def test_a_bundle_of_another_version_is_refused(copy: Path, tmp_path: Path) -> None:
    folder = copy / "readers" / "reader-02"
    script, study = folder / "session.js", folder / "study.js"
    before = script.read_text()
    script.write_text(before + "\n")
    refused(copy, tmp_path / "answers", r"reader-02 has another viewer .*session\.js differ.*serve it with medcodi")
    script.write_text(before)
    whole = study.read_text()
    study.write_text(whole.replace('"welcome_served"', '"welcome_by_post"'))
    refused(copy, tmp_path / "answers", "its pages lack welcome_served")
    study.write_text(whole)
    folder.rename(folder.with_name("reader-03"))
    refused(copy, tmp_path / "answers", "holds folders of 1 studies, for reader-01, reader-02")
    assert not (tmp_path / "answers").exists()


def test_answers_of_other_studies_and_damaged_ones_are_refused_and_stay(
    served: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers"
    with opened_answers(out, open_bundle(served)) as answers:
        answers.store("reader-01", json.dumps(answered(bundle, "reader-01", 4)).encode(), "")
    refused(served / "readers" / "reader-01", out, "readers was .*is ")
    path = next((out / "results").iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    refused(served, out, "is damaged.*move it away")
    assert path.exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("mine")
    refused(served, tmp_path / "theirs", "does not hold the answers of a served reader study")


def test_links(served: Path) -> None:
    tokens = {"reader-01": "abc", PROGRESS: "xyz"}
    assert reader_links("https://reading.example.org/study/", tokens, ["reader-01"]) == {
        "reader-01": "https://reading.example.org/study/read/abc/",
        PROGRESS: "https://reading.example.org/study/progress/xyz",
    }
