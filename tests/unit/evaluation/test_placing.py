"""No evaluation writes into a folder of somebody's own files, or deletes any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcodi.errors import ConfigError
from medcodi.evaluation.bundle import Bundle
from medcodi.evaluation.placing import MARK, check_out
from medcodi.evaluation.ranks import ALONE


def test_a_folder_of_other_files_is_refused_and_nothing_in_it_is_touched(tmp_path: Path) -> None:
    mine = tmp_path / "project/writings/thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years")
    with pytest.raises(ConfigError, match="holds no bundle.*choose another --out"):
        check_out(tmp_path / "project", {})
    (tmp_path / "project" / MARK).touch()  # somebody marked it all the same
    Bundle.open(tmp_path / "project", ALONE)
    assert mine.read_text() == "years"


def test_new_empty_and_our_own_folders_pass(tmp_path: Path) -> None:
    check_out(tmp_path / "new", {})
    check_out(tmp_path, {})
    Bundle.open(tmp_path / "stopped", ALONE)  # a run that was stopped at once
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
        ("mine", "mine/generated", "'theirs' lies in the results' own folder"),
        ("mine", "mine", "'theirs' lies in the results' own folder"),
        ("mine", "elsewhere/../mine/table.csv", "'theirs' lies in the results' own folder"),
        ("theirs/results", "theirs", "would lie among the files of system 'theirs'"),
    ],
)
def test_what_is_judged_and_the_results_lie_apart(tmp_path: Path, out: str, source: str, message: str) -> None:
    for folder in ("mine/generated", "elsewhere", "theirs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine" / MARK).touch()  # a bundle of an earlier run
    with pytest.raises(ConfigError, match=message):
        check_out(tmp_path / out, {"theirs": str(tmp_path / source)})
    check_out(tmp_path / "mine", {"theirs": str(tmp_path / "theirs")})
