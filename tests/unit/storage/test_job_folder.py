"""Laws of every job's folder: resumable, verified, its own, and nobody else's."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medcodi.errors import DataError, MedCoDiError
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder, JobKind, damage, differences, file_row
from tests.unit.storage.killed import at_every_change
from tests.unit.storage.test_atomic import files_of_at_most

FLAT = JobKind(
    name="a list", record_file="{shard}.json", own_patterns=("*.bin", "*.json"), error=DataError, fix="name another"
)
FOLDERS = JobKind(name="a tree", record_file="{shard}/record.json", own_patterns=("s?",), error=DataError)
STAGED = JobKind(name="a product", staging_name=".{target}.partial", error=DataError)
SHARDS = ("s0", "s1", "s2")


def write(job: JobFolder, shard: str) -> None:
    """A shard of either form."""
    if job.kind.record_file.startswith("{shard}/"):

        def fill(folder: Path) -> dict:
            (folder / "x.bin").write_text(shard)
            return {"files": {"x.bin": file_row(folder / "x.bin")}}

        job.write(shard, fill)
        return
    file = job.content / f"{shard}.bin"
    atomic.write_text(file, shard)
    job.finish(shard, {file.name: file_row(file)}, rows=3)


def run(root: Path, kind: JobKind = FLAT, identity: object = 1, shards: tuple[str, ...] = SHARDS) -> None:
    job = JobFolder(root, kind, identity)
    with job.opened():
        for shard in job.todo(shards):
            write(job, shard)


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


# ---- resuming --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [FLAT, FOLDERS], ids=["files", "folders"])
def test_killed_at_any_moment_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path, kind: JobKind) -> None:
    run(tmp_path / "whole", kind)
    expected, root = contents(tmp_path / "whole"), tmp_path / "killed"
    kills = 0
    for _ in at_every_change(lambda: shutil.rmtree(root, ignore_errors=True), lambda: run(root, kind)):
        job = JobFolder(root, kind, 1)
        finished = {shard: job.record_path(shard).stat().st_ino for shard in SHARDS if job.record(shard)}
        assert not job.verify(finished)  # what has a record is whole
        run(root, kind)
        assert contents(root) == expected
        assert all(job.record_path(shard).stat().st_ino == inode for shard, inode in finished.items())  # not done again
        kills += 1
    assert kills >= 10


def test_a_product_that_is_killed_at_any_moment_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def begin() -> None:
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        target.mkdir()
        (target / "former").touch()

    def make() -> None:
        job = JobFolder.beside(target, STAGED, {"a": 1})
        with job.opened(restart=True):
            for shard in job.todo(SHARDS):
                write(job, shard)
            job.publish(replace=True)

    for _ in at_every_change(begin, make):
        atomic.recover(target)
        assert sorted(contents(target)) in (["former"], [f"{shard}.bin" for shard in SHARDS])
        make()
        assert contents(target) == {f"{shard}.bin": shard for shard in SHARDS}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_kill_after_publishing_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    target, root = tmp_path / "out", tmp_path / ".out.partial"
    job = JobFolder.beside(target, STAGED, {"a": 1})
    with job.opened():
        write(job, "s0")
        JobFolder.sweep_published(target, STAGED)
        assert not job.verify(["s0"])  # no target yet
        job.content.rename(target)  # and killed
        JobFolder.sweep_published(target, STAGED)
        assert job.read_index() is not None  # somebody works here
    JobFolder.sweep_published(target, STAGED)
    assert not root.exists() and contents(target) == {"s0.bin": "s0"}
    root.mkdir()
    (root / "notes.txt").write_text("of a person")
    JobFolder.sweep_published(target, STAGED)
    assert list(contents(root)) == ["notes.txt"]


def test_todo_and_verify_tell_what_is_missing_cut_and_changed(tmp_path: Path) -> None:
    run(tmp_path)
    job = JobFolder(tmp_path, FLAT, 1)
    assert job.todo(SHARDS) == job.verify(SHARDS) == [] and job.record("s1")["rows"] == 3  # type: ignore[index]
    (tmp_path / "s0.bin").unlink()
    (tmp_path / "s1.bin").write_text("S1")
    (tmp_path / "s2.json").write_text("{")
    assert job.todo(SHARDS) == ["s0", "s2"] and job.verify(SHARDS) == ["s0", "s1", "s2"]
    assert "s1.bin is damaged: 2 bytes, some of them changed" in job.damage("s1", job.record("s1") or {})
    run(tmp_path)
    assert job.verify(SHARDS) == ["s1"]


def test_old_records_that_hold_the_hash_themselves_still_vouch(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, replace(FLAT, old_shard_file="{shard}.bin"), 1)
    (tmp_path / "s0.bin").write_text("s0")
    (tmp_path / "s0.json").write_text(json.dumps({"rows": 3, **file_row(tmp_path / "s0.bin")}))
    assert not job.verify(["s0"])
    (tmp_path / "s0.bin").write_text("S0")
    assert job.verify(["s0"]) == ["s0"]


# ---- whose it is -----------------------------------------------------------------------------------------------------
def test_another_identity_is_refused_with_dotted_differences_and_nothing_changes(tmp_path: Path) -> None:
    run(tmp_path, identity={"optimizer": {"lr": 0.1, "eps": 1}, "seed": 0})
    before = contents(tmp_path)
    with pytest.raises(
        DataError, match=r"holds a list with other settings: optimizer.lr was 0.1, is 0.2\..*name another"
    ):
        run(tmp_path, identity={"optimizer": {"lr": 0.2, "eps": 1}, "seed": 0})
    assert contents(tmp_path) == before


def test_a_restart_removes_what_is_its_own_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "notes.txt").write_text("of a person")
    with JobFolder(tmp_path, FLAT, 2).opened(restart=True) as changed:
        assert changed == ["it was 1, is 2"]
        assert sorted(contents(tmp_path)) == [".lock", "job.json", "notes.txt"]
    with JobFolder(tmp_path, FLAT, 2).opened(restart=True) as changed:
        assert changed == []


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("index", [None, "{", "[]", '{"format": 2, "identity": 1}'])
def test_files_of_somebody_else_are_refused_and_stay(tmp_path: Path, index: str | None, restart: bool) -> None:
    (tmp_path / "s0.bin").write_text("of a person")
    if index is not None:
        (tmp_path / "job.json").write_text(index)
    before = contents(tmp_path)
    job = JobFolder(tmp_path, replace(FLAT, index_header={"format": 1}), 1)
    with pytest.raises(DataError, match="is not empty, and does not hold a list"), job.opened(restart=restart):
        pass
    job.kind.own_patterns
    assert contents(tmp_path) == before


def test_two_at_once_are_refused_and_leave_the_first_alone(tmp_path: Path) -> None:
    with (
        JobFolder(tmp_path, FLAT, 1).opened(),
        pytest.raises(DataError, match=f"is in use by another process: process {os.getpid()} on .*name another"),
    ):
        run(tmp_path)
    assert list(contents(tmp_path)) == ["job.json"]


def test_jobs_whose_ranks_do_not_talk_lock_the_opening_only(tmp_path: Path) -> None:
    kind = replace(FOLDERS, exclusive=False)
    with JobFolder(tmp_path, kind, 1).opened(), JobFolder(tmp_path, kind, 1).opened():
        assert list(contents(tmp_path)) == ["job.json"]
    first, second = JobFolder(tmp_path, kind, 1), JobFolder(tmp_path, kind, 1)
    write(first, "s0")
    inode = first.record_path("s0").stat().st_ino
    write(second, "s0")  # it is there already
    assert first.record_path("s0").stat().st_ino == inode


# ---- disks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [FLAT, FOLDERS], ids=["files", "folders"])
def test_a_full_disk_is_refused_keeps_what_is_finished_and_leaves_no_half_shard(tmp_path: Path, kind: JobKind) -> None:
    run(tmp_path, kind, shards=("s0",))
    before = contents(tmp_path)
    with files_of_at_most(100), pytest.raises(DataError, match="s1.*cannot be written: File too large.*it resumes"):
        run(tmp_path, kind)
    assert before.items() <= contents(tmp_path).items() and not list(tmp_path.rglob("*.partial"))
    assert JobFolder(tmp_path, kind, 1).todo(SHARDS) == ["s1", "s2"]
    run(tmp_path, kind)
    assert not JobFolder(tmp_path, kind, 1).verify(SHARDS)


def test_a_folder_that_cannot_be_made_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for root in (tmp_path / "file/job", Path("/proc/job")):
        with pytest.raises(MedCoDiError, match="job.* cannot be (written|read)"):
            run(root)
    with files_of_at_most(1), pytest.raises(DataError, match="cannot be written"):
        run(tmp_path / "new")
    assert list(contents(tmp_path)) == ["file"] and not (tmp_path / "new").exists()


def test_damage_and_differences_in_words(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12")
    row = file_row(tmp_path / "a")
    assert damage(tmp_path / "a", row) == "" and damage(tmp_path / "b", row) == "it is missing"
    assert damage(tmp_path / "a", {**row, "bytes": 1000}) == "2 bytes instead of 1,000"
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}, "d": []}) == ["a.c was 2, is None", "d was None, is []"]
    assert differences({"a": [1]}, {"a": [1]}) == []


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/../../x.bin"])
def test_a_record_that_names_a_file_outside_of_the_folder_vouches_for_nothing(tmp_path: Path, name: str) -> None:
    run(tmp_path / "job")
    (tmp_path / "x.bin").write_text("theirs")
    job = JobFolder(tmp_path / "job", FLAT, 1)
    (tmp_path / "job/s0.json").write_text(json.dumps({"files": {name: file_row(tmp_path / "x.bin")}}))
    assert job.record("s0") is None and job.todo(SHARDS) == ["s0"]
    with pytest.raises(DataError, match="outside of its folder"):
        job.damage("s0", {"files": {"s0.bin": {"file": name}}})
