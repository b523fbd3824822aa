"""No evaluation writes into a folder of somebody's own files, or deletes any."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.bundle import MARK, Bundle, check_out


def test_a_folder_of_other_files_is_refused_and_nothing_in_it_is_touched(tmp_path: Path) -> None:
    mine = tmp_path / "project/writings/thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years")
    with pytest.raises(ConfigError, match="holds no bundle.*choose another --out"):
        check_out(tmp_path / "project", {})
    (tmp_path / "project" / MARK).touch()  # somebody marked it all the same
    with Bundle(tmp_path / "project").opened():
        pass
    assert mine.read_text() == "years"


def test_new_empty_and_our_own_folders_pass(tmp_path: Path) -> None:
    check_out(tmp_path / "new", {})
    check_out(tmp_path, {})
    with Bundle(tmp_path / "stopped").opened():  # a run that was stopped at once
        pass
    check_out(tmp_path / "stopped", {})
    older = tmp_path / "older"
    older.mkdir()
    (older / "bundle.json").write_text(json.dumps({"schema_version": 2, "files": {"results.json": "0"}}))
    check_out(older, {})
    (older / "bundle.json").write_text(json.dumps({"files": ["a list of something else"]}))
    with pytest.raises(ConfigError, match="holds no bundle"):
        check_out(older, {})
    (tmp_path / "cache/features").mkdir(parents=True)
    check_out(tmp_path / "cache", {})


@pytest.mark.parametrize(
    ("out", "source", "message"),
    [
        ("mine", "mine/generated", "'theirs' is stored in the results' own folder"),
        ("mine", "mine", "'theirs' is stored in the results' own folder"),
        ("mine", "elsewhere/../mine/table.csv", "'theirs' is stored in the results' own folder"),
        ("theirs/results", "theirs", "would be stored among the files of system 'theirs'"),
    ],
)
def test_systems_and_results_are_in_different_folders(tmp_path: Path, out: str, source: str, message: str) -> None:
    for folder in ("mine/generated", "elsewhere", "theirs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine" / MARK).touch()  # a bundle of an earlier run
    with pytest.raises(ConfigError, match=message):
        check_out(tmp_path / out, {"theirs": str(tmp_path / source)})
    check_out(tmp_path / "mine", {"theirs": str(tmp_path / "theirs")})


def test_an_index_lists_every_file_by_its_hash_and_is_written_last(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "out")
    with bundle.opened():
        for name in ("results.json", "scored.json", "run.json"):
            bundle.write(name, {"é": 1.5})
        (bundle.folder / "page.html").write_text("<p>")
        bundle.write("annotations/annotations.json", {})
        contents = bundle.generated / "tiny/a.npz"
        contents.parent.mkdir(parents=True)
        contents.write_bytes(b"1")
        bundle.seal(4, [contents])
    files = bundle.read("bundle.json")["files"]
    assert list(files) == [
        "results.json", "scored.json", "page.html", "run.json", "annotations/annotations.json", "generated/tiny/a.npz",
    ]  # fmt: skip
    assert files["page.html"] == hashlib.sha256(b"<p>").hexdigest()
    assert sorted(path.name for path in bundle.folder.iterdir() if path.name.startswith(".")) == [MARK]
    bundle.unseal()
    with pytest.raises(DataError, match=r"bundle\.json is unreadable"):
        bundle.read("bundle.json")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with Bundle(tmp_path).opened():
        (tmp_path / ".medcodi-work/shard").write_text("of the first run")
        with pytest.raises(ConfigError, match="in use by another process"), Bundle(tmp_path).opened():
            pass
        assert (tmp_path / ".medcodi-work/shard").is_file()


def test_a_number_that_json_has_not_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Bundle(tmp_path).write("results.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())
