"""A prepared dataset's files: counted, mapped, fetched from URLs, unpacked from parquet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from medcodi.config import from_dict
from medcodi.data.batches import GlobalBatches
from medcodi.data.dataset import open_dataset, read_info
from medcodi.data.loading import DataConfig
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.errors import DataError

NUM = 70  # three shards


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("table")
    rows = ["study_id,patient_id,view,image,report,split"]
    for index in range(NUM):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append(f"s{index},p{index},PA,{index}.png,Study number {index}.,{'train' if index < 68 else 'val'}")
    (folder / "studies.csv").write_text("\n".join(rows) + "\n")
    return folder / "studies.csv"


def prepared(table: Path, out: Path, **more) -> Path:
    prepare(from_dict(PrepareConfig, {"source": "csv", "path": str(table), "out": str(out), "image_size": 32, **more}))
    return out


@pytest.fixture(scope="module")
def original(table: Path, tmp_path_factory) -> Path:
    return prepared(table, tmp_path_factory.mktemp("original") / "mine")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "mine"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDCODI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(original: Path):
    """The dataset in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.put(str(original), "/bucket/mine", recursive=True)
    yield "memory://bucket/mine"
    memory.rm("/bucket", recursive=True)


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        a.study_id == b.study_id
        and a.report == b.report
        and all(np.array_equal(a.images[name], b.images[name]) for name in a.images)
        for a, b in zip(left, right, strict=True)
    )


def test_rows_stay_on_disk_until_asked_for(original: Path) -> None:
    before = pa.total_allocated_bytes()
    studies = open_dataset(original, "train")
    image = studies[40].images["frontal"]
    assert image.shape == (32, 32) and pa.total_allocated_bytes() - before < image.size  # mapped, not read


def test_the_ledger_is_counted_at_the_start(folder: Path) -> None:
    config = DataConfig(path=str(folder), image_size=32)
    assert len(config.build()) == 68
    ledger = folder / "ledger.json"
    counts = json.loads(ledger.read_text())
    ledger.write_text(json.dumps({**counts, "split": {"train": 67, "val": 2}}))
    with pytest.raises(DataError, match="the ledger has 67 studies, .* the files has 68"):
        config.build()
    ledger.unlink()
    with pytest.raises(DataError, match=r"ledger.json cannot be read"):
        config.build()


def test_files_that_are_missing_cut_short_or_too_many(folder: Path) -> None:
    file = folder / "train" / "data-00001.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(DataError, match=r"data-00001.arrow: [\d,]+ bytes. Expected [\d,]+ bytes"):
        open_dataset(folder, "train")
    file.unlink()
    with pytest.raises(DataError, match=r"data-00001.arrow: no file"):
        open_dataset(folder, "train")
    file.write_bytes(whole)
    (folder / "train" / "data-00009.arrow").write_bytes(whole)
    with pytest.raises(DataError, match=r"data-00009.arrow is not a file of this dataset"):
        open_dataset(folder, "train")


def test_a_folder_of_an_earlier_version_opens(folder: Path) -> None:
    info = read_info(folder)
    (folder / "dataset_info.json").write_text(json.dumps({key: info[key] for key in info if key != "shards"}))
    assert len(open_dataset(folder, "train")) == 68
    (folder / "train" / "data-00001.arrow").unlink()
    with pytest.raises(DataError, match="the ledger has 68 studies"):
        open_dataset(folder, "train")


def test_a_url_is_copied_once_and_mapped(url: str, original: Path, cache: Path, capsys) -> None:
    studies = open_dataset(url, "train")
    assert same(studies, open_dataset(original, "train"))
    told = " ".join(capsys.readouterr().err.split())
    assert "copying 4 files" in told and url in told and "MEDCODI_CACHE" in told
    assert not list(cache.rglob("val")) and not list(cache.rglob(".data*"))
    fsspec.filesystem("memory").rm("/bucket/mine/train", recursive=True)
    assert same(open_dataset(url, "train"), studies) and capsys.readouterr().err == ""


def test_a_file_url_is_the_folder_itself(original: Path, cache: Path) -> None:
    assert same(open_dataset(f"file://{original}", "val"), open_dataset(original, "val"))
    assert not cache.exists()


def test_ranks_read_the_same_batches_from_a_url(url: str, original: Path, cache: Path) -> None:
    local = GlobalBatches(DataConfig(path=str(original), image_size=32).build(), batch_size=8, seed=3)
    for rank in (0, 1):
        remote = DataConfig(path=url, image_size=32).build()
        ahead = GlobalBatches(remote, batch_size=8, seed=3, rank=rank, world_size=2, num_workers=1)
        for step, batches in enumerate(ahead.iterate(0, 3)):
            whole = local.batches(step).micro[0].rows(rank * 4, rank * 4 + 4)
            assert batches.micro[0].study_ids == whole.study_ids
            assert np.array_equal(batches.micro[0].contents["frontal"], whole.contents["frontal"])


def test_a_copy_that_is_not_what_was_written_is_refused(url: str, cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    data = memory.cat_file("/bucket/mine/train/data-00000.arrow")
    memory.pipe_file("/bucket/mine/train/data-00000.arrow", data[:-8] + b"xxxxxxxx")
    with pytest.raises(DataError, match=r"memory://bucket/mine/train/data-00000.arrow has SHA-256"):
        open_dataset(url, "train")
    assert not list(cache.rglob("data-00000.arrow"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/nothing", r"memory://bucket/nothing is not a prepared dataset"),
        ("nonsense://bucket/mine", r"unknown protocol 'nonsense'"),
        ("file:///nowhere/mine", r"is not a prepared dataset"),
    ],
)
def test_urls_that_lead_nowhere(url: str, message: str, cache: Path) -> None:
    with pytest.raises(DataError, match=message):
        DataConfig(path=url, image_size=32).build()


def test_a_protocol_whose_package_is_missing(cache: Path, monkeypatch) -> None:
    def missing(url, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(DataError, match=r"Install s3fs.*pip install 'fsspec\[s3\]'"):
        open_dataset("s3://bucket/mine", "train")


def test_a_missing_split_behind_a_url(url: str, cache: Path) -> None:
    with pytest.raises(DataError, match=r"no studies in split 'test'. Expected one of: train \(68\), val \(2\)"):
        open_dataset(url, "test")


def test_a_cache_that_cannot_be_written(url: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDCODI_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="MEDCODI_CACHE"):
        open_dataset(url, "train")


def test_a_copy_that_cannot_be_written_is_no_fault_of_the_url(url: str, cache: Path) -> None:
    info = read_info(url)
    folder = cache / "datasets" / f"{info['name']}-{info['fingerprint'][:16]}"
    folder.mkdir(parents=True)
    (folder / "train").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"data-00000.arrow cannot be written.*MEDCODI_CACHE"):
        open_dataset(url, "train")


def test_parquet_shards_are_unpacked_once(table: Path, original: Path, cache: Path, tmp_path: Path) -> None:
    out = prepared(table, tmp_path / "mine", file_format="parquet")
    assert not list(out.rglob("*.arrow")) and len(list(out.glob("train/*.parquet"))) == 3
    studies = open_dataset(out, "train")
    assert same(studies, open_dataset(original, "train"))
    unpacked = {file: file.stat().st_mtime_ns for file in (cache / "unpacked").glob("*.arrow")}
    assert len(unpacked) == 3
    open_dataset(out, "train")
    assert unpacked == {file: file.stat().st_mtime_ns for file in (cache / "unpacked").glob("*.arrow")}
    # A damaged file is refused, and leaves nothing half unpacked.
    shutil.rmtree(cache / "unpacked")
    shard = sorted(out.glob("train/*.parquet"))[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:4] + bytes(60) + data[64:])  # the header of the first page
    with pytest.raises(DataError, match="cannot be read"):
        open_dataset(out, "train")
    assert all(file.suffix == ".arrow" for file in (cache / "unpacked").iterdir())


class Stalled:
    """Studies of which one never comes, or ends its process."""

    name, image_size, fingerprint = "stalled", 8, "stalled"

    def __init__(self, what) -> None:
        self.what = what

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return self.what()


def test_a_stalled_loader_is_named() -> None:
    import os
    import time

    late = GlobalBatches(Stalled(lambda: time.sleep(60)), batch_size=4, num_workers=1, timeout_s=0.5)
    with pytest.raises(DataError, match=r"rank 0: step 3 of stalled did not come \(within 0.5 s\); studies number"):
        list(late.iterate(3, 4))
    dead = GlobalBatches(Stalled(lambda: os._exit(1)), batch_size=4, num_workers=1, timeout_s=20)
    with pytest.raises(DataError, match=r"step 0 of stalled did not come .*exited unexpectedly.*fewer num_workers"):
        list(dead.iterate(0, 1))


@pytest.mark.parametrize("key", ["name", "fingerprint"])
def test_a_description_cannot_place_its_copies_outside_of_the_cache(folder: Path, key: str) -> None:
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, key: "/../../x"}))
    with pytest.raises(DataError, match="plain file name"):
        read_info(folder)
