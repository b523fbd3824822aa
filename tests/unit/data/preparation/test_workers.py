"""``data prepare`` by several processes, killed and run again: always the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from medcodi.config import from_dict
from medcodi.data.dataset import open_dataset
from medcodi.data.preparation import shards, workers
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.preparation.shards import Interrupted
from medcodi.data.sources.announced import AnnouncedStudy
from medcodi.errors import DataError
from medcodi.storage.atomic import unwritable
from medcodi.storage.locks import locked
from tests.unit.data.mimic_tree import write_dicom
from tests.unit.storage.test_atomic import files_of_at_most

NUM = 120
NUM_SHARDS = 5
SIDE = 320


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Studies whose images take some milliseconds each to read; a few cannot be used."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    rows = ["study_id,patient_id,view,image,report,split"]
    for index in range(NUM):
        image = "nothing.png" if index % 40 == 7 else f"{index % 8}.png"
        split = "train" if index < 96 else "val" if index < 108 else "test"
        rows.append(f"s{index},p{index},PA,{image},Study number {index}.,{split}")
    path = folder / "studies.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def settings(table: Path, out: Path, **more) -> PrepareConfig:
    return from_dict(PrepareConfig, {"source": "csv", "path": str(table), "out": str(out), "image_size": 64, **more})


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def one(table: Path, tmp_path_factory) -> Path:
    """Prepared by one process, without interruption."""
    out = tmp_path_factory.mktemp("one") / "out"
    prepare(settings(table, out))
    return out


def test_several_processes_write_the_same_bytes(table: Path, one: Path, tmp_path: Path) -> None:
    ledger = prepare(settings(table, tmp_path / "out", num_workers=3))
    assert contents(tmp_path / "out") == contents(one) and len(contents(one)) == 3 + NUM_SHARDS
    assert [entry.study_id for entry in ledger.entries[::2]] == [f"s{index}" for index in range(NUM)]
    assert ledger.counts()["split"] == {"train": 93, "val": 12, "test": 12} and ledger.left_out == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


KILLED = """
import json, os, signal, sys
import psutil
from medcodi.config import from_dict
from medcodi.data.preparation import shards
from medcodi.storage.job_folder import JobFolder
from medcodi.data.preparation.prepare import PrepareConfig, prepare

moment, nth, values = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
where, name = {"row": (shards, "row_from_study"), "note": (JobFolder, "finish"), "end": (JobFolder, "publish")}[moment]
original, calls = getattr(where, name), []

def killing(*arguments, **more):
    calls.append(1)
    if len(calls) == nth:
        print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **more)

if __name__ == "__main__":
    setattr(where, name, killing)
    prepare(from_dict(PrepareConfig, values))
"""


@pytest.mark.parametrize(
    ("moment", "nth", "num_workers", "num_finished"),
    [
        ("row", 50, 1, 1),  # within the second shard
        ("note", 3, 1, 2),  # the third shard is written, its note is not
        ("note", 2, 2, 1),  # two processes write
        ("end", 1, 1, NUM_SHARDS),  # all is there but its name
    ],
)
def test_killed_in_the_middle_and_run_again(
    table: Path, one: Path, tmp_path: Path, moment: str, nth: int, num_workers: int, num_finished: int
) -> None:
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    values = {"source": "csv", "path": str(table), "out": str(out), "image_size": 64, "num_workers": num_workers}
    (tmp_path / "run.py").write_text(KILLED)
    killed = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), moment, str(nth), json.dumps(values)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    orphans, patience = killed.stdout.splitlines()[-1].split(), time.monotonic() + 20
    while any(lives(int(pid)) for pid in orphans):
        assert time.monotonic() < patience, "a worker outlived its parent"
        time.sleep(0.02)
    finished = {note.stem for note in (partial / "shards").glob("*.json")}
    assert len(finished) == num_finished
    files = {path.name: path.stat().st_ino for path in (partial / "content" / "train").glob("data-*.arrow")}
    kept = {f"data-{name.removeprefix('train-')}.arrow" for name in finished if name.startswith("train")}

    seen = []
    original = shards.write_shard
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "write_shard", lambda shard, *rest: (seen.append(shard.name), original(shard, *rest))[1])
        prepare(settings(table, out))
    assert not set(seen) & finished and len(seen) == NUM_SHARDS - num_finished  # what was finished is not read again
    assert all((out / "train" / name).stat().st_ino == files[name] for name in kept)
    assert contents(out) == contents(one)
    assert not partial.exists()


class Stopping(AnnouncedStudy):
    """A study at which the process ends, as the kernel would end it when memory runs out."""

    def load(self, image_size: int):
        os._exit(9)


def test_a_killed_worker_is_named_and_what_is_finished_stays(table: Path, tmp_path: Path, monkeypatch) -> None:
    config = settings(table, tmp_path / "out", num_workers=2)
    announced = list(config.studies())
    last = Stopping(study_id=announced[-1].study_id, patient_id=announced[-1].patient_id, split=announced[-1].split)
    monkeypatch.setattr(PrepareConfig, "studies", lambda self, each=map: iter([*announced[:-1], last]))
    with pytest.raises(Interrupted, match=r"a worker of 2 was killed.*num_workers=1"):
        prepare(config)
    assert (tmp_path / ".out.partial").is_dir() and not (tmp_path / "out").exists()


def test_other_settings_start_from_nothing(table: Path, one: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def full(*rest):
        if len(list((tmp_path / ".out.partial" / "shards").glob("*.json"))) == 2:
            raise unwritable(tmp_path, OSError(28, "No space left on device"), error=Interrupted)
        return shards.write_shard(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "write_shard", full)
        with pytest.raises(Interrupted, match="cannot be written: No space left"):
            prepare(settings(table, tmp_path / "out", image_size=32))
    ledger = prepare(settings(table, tmp_path / "out"))
    assert "image_size was 32, is 64" in " ".join(capsys.readouterr().err.split())
    assert contents(tmp_path / "out") == contents(one) and ledger.num_kept == 117


def test_a_shard_cut_short_is_written_again(table: Path, one: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*rest):
        if (tmp_path / ".out.partial" / "shards" / "train-00001.json").exists():
            raise unwritable(tmp_path, OSError(28, "No space left on device"), error=Interrupted)
        return shards.write_shard(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "write_shard", full)
        with pytest.raises(Interrupted):
            prepare(settings(table, tmp_path / "out"))
    file = tmp_path / ".out.partial" / "content" / "train" / "data-00000.arrow"
    file.write_bytes(file.read_bytes()[:-100])
    prepare(settings(table, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(one)


def test_two_preparations_of_one_dataset_are_refused(table: Path, tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".out.partial" / ".lock"),
        pytest.raises(DataError, match="in use by another process: process"),
    ):
        prepare(settings(table, tmp_path / "out"))


def test_a_disk_that_fills_up_is_refused_and_the_next_run_resumes(table: Path, one: Path, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in one.glob("*/*.arrow")]
    with files_of_at_most(max(sizes) - 1), pytest.raises(Interrupted, match="data-0.* cannot be written: .*make room"):
        prepare(settings(table, tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("*.arrow.*"))
    prepare(settings(table, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(one)


def test_a_preparation_left_by_version_0_1_is_refused_by_name(table: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/plan.json").write_text('{"key": "0"}')
    with pytest.raises(DataError, match="does not hold an unfinished preparation.*Fix: remove it"):
        prepare(settings(table, tmp_path / "out"))


def test_too_many_bad_studies_stop_early(table: Path, tmp_path: Path, monkeypatch) -> None:
    rows = table.read_text().splitlines()
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join([rows[0], *(row.replace(".png", ".gone") for row in rows[1:])]) + "\n")
    seen = []
    original = shards.write_shard
    monkeypatch.setattr(workers, "write_shard", lambda shard, *rest: (seen.append(shard), original(shard, *rest))[1])
    with pytest.raises(DataError, match=r"at least 32 of 120 studies \(27%\).*missing file"):
        prepare(settings(bad, tmp_path / "out"))
    assert len(seen) == 1 and sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv"]


def test_refusals_in_a_worker_keep_their_mend(table: Path, tmp_path: Path) -> None:
    rows = table.read_text().splitlines()
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join([rows[0], *(row.replace(".png", ".gone") for row in rows[1:])]) + "\n")
    with pytest.raises(DataError, match="max_bad_fraction"):
        prepare(settings(bad, tmp_path / "out", num_workers=2))


def test_headers_read_by_several_processes_announce_the_same_studies(tmp_path: Path) -> None:
    source = tmp_path / "dicom"
    source.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2 * workers.CHUNK + 5):
        path = source / f"{index:03d}.dcm"
        write_dicom(path, rng.integers(0, 256, (40, 40), dtype=np.uint8), ("PA", "LL", "XX")[index % 3], "")
    values = {"source": "dicom", "path": str(source), "image_size": 16, "max_bad_fraction": 0.5}
    values["options"] = {"study_is_patient": True}
    for num in (1, 2):
        prepare(
            from_dict(PrepareConfig, {**values, "out": str(tmp_path / f"out{num}"), "num_workers": num, "name": "one"})
        )
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
    ledger = (tmp_path / "out2" / "ledger.csv").read_text()
    assert "unknown view" in ledger and "068.dcm" in ledger


def _refusing(number: int) -> int:
    if number == 70:
        raise DataError("the seventieth", expected="another", fix="none")
    return number * number


def test_map_keeps_the_order_of_a_stream_and_says_what_was_refused() -> None:
    with workers.Workers(2, "squares") as pool:
        squares = pool.map(_refusing, iter(range(200)))
        seen = [next(squares) for _ in range(64)]
        with pytest.raises(DataError, match="the seventieth"):
            list(squares)
    assert seen == [number * number for number in range(64)]


def test_overwriting_puts_the_new_one_in_place(table: Path, one: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(settings(table, out, image_size=32))
    with pytest.raises(DataError, match="exists already"):
        prepare(settings(table, out))
    prepare(settings(table, out, overwrite=True))
    assert contents(out) == contents(one) and open_dataset(out, "test").image_size == 64


@pytest.mark.parametrize(("key", "value"), [("num_workers", 0), ("file_format", "arow"), ("workers", 2)])
def test_impossible_settings(table: Path, tmp_path: Path, key: str, value) -> None:
    with pytest.raises(ValueError, match="num_workers|did you mean 'arrow'"):
        settings(table, tmp_path / "out", **{key: value})
