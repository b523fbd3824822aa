"""Every job that may be killed, meet itself, or run out of disk comes to the same files, or refuses by name and leaves nothing half done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration import forked, jobs, small_disk
from tests.integration.conftest import STAGES

JOBS = tuple(jobs.command_lines(Path()))
ONE_SHOT = tuple(jobs.one_shot_lines(Path()))
# At every `make test`; the four stages have theirs in test_train_faults and test_exactness.
QUICK = tuple(job for job in JOBS if job not in (*STAGES, "fit"))
LONG = {"fit": 3}  # kills of what takes half a minute each time; its parts are jobs of their own
# A write that failed; or, before anything is written, the room that a run or an import needs.
NO_ROOM = ("cannot be written", "has room for", "GiB are needed in")
TOGETHER = ("synthesize",)  # its ranks do not talk: several work in one folder, each on its own studies
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    process = forked.FORKS.Process(target=jobs.told, args=(_made, folder / "made.json", folder / "log.txt", folder))
    process.start()
    process.join(600)
    assert process.exitcode == 0, (folder / "log.txt").read_text()[-3000:]
    return folder


def _made(folder: Path) -> dict[str, Any]:
    jobs.make_inputs(folder)
    return {}


def tell(story: Callable[..., dict[str, Any]], job: str, inputs: Path, root: Path, *more: Any) -> dict[str, Any]:
    """What a story tells of a job."""
    words = {**jobs.command_lines(inputs), **jobs.one_shot_lines(inputs)}[job]
    result, log = root.parent / f"{root.name}.json", root.parent / f"{root.name}.txt"
    root.mkdir()
    process = forked.FORKS.Process(target=jobs.told, args=(story, result, log, words, root, *more))
    process.start()
    process.join(1700)
    if process.exitcode == small_disk.NOT_ALLOWED:
        pytest.skip("this machine lets nobody mount a file system of their own")
    assert process.exitcode == 0, log.read_text()[-2000:] + (root / "log.txt").read_text()[-2000:]
    return json.loads(result.read_text())


@pytest.mark.parametrize(
    ("job", "num_kills"),
    [
        *((job, 2) for job in QUICK),
        *(pytest.param(job, LONG.get(job, 6), marks=pytest.mark.faults) for job in (*JOBS, *ONE_SHOT)),
    ],
)
def test_killed_and_resumed_it_comes_to_the_same_files(inputs: Path, tmp_path: Path, job: str, num_kills: int) -> None:
    told = tell(jobs.killed, job, inputs, tmp_path / "root", num_kills)
    print(job, told)
    assert not told["wrong"] and told["files"] and (told["resumed"] or job in ONE_SHOT)
    assert told["kills"] >= min(num_kills, told["changes"] - 1)


@pytest.mark.faults
@pytest.mark.parametrize("job", JOBS)
def test_two_at_once_the_second_is_refused_by_name_and_destroys_nothing(inputs: Path, tmp_path: Path, job: str) -> None:
    told = tell(jobs.two_at_once, job, inputs, tmp_path / "root")
    print(job, told)
    assert told["first"] == 0 and not told["differing"]
    if job in TOGETHER:
        assert told["second"] == 0
    else:
        assert told["second"] == jobs.REFUSED and "in use by another process: process" in told["text"]
        assert not told["touched"]


@pytest.mark.faults
@pytest.mark.parametrize("job", [*JOBS, *ONE_SHOT])
def test_a_disk_that_is_full_or_read_only_is_refused_by_name(inputs: Path, tmp_path: Path, job: str) -> None:
    told = tell(jobs.on_a_small_disk, job, inputs, tmp_path / "root", (0.5,) if job in LONG else (0.02, 0.5, 0.9))
    print(job, told)
    for full in told["full"]:
        assert full["code"] == jobs.REFUSED and any(words in full["text"] for words in NO_ROOM), full["text"]
        assert "Traceback" not in full["text"] and not full["half-written"]
        assert full["then"] == 0 and not full["differing"]
    assert told["read-only"] == jobs.REFUSED and "Read-only" in told["text"] and "Traceback" not in told["text"]
