"""Shards are planned from the source alone; a shard on disk holds the rows that its record vouches for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medcodi.data.preparation.shards import (
    ROWS_PER_BATCH,
    PatientSplits,
    Shard,
    WrittenShard,
    plan_shards,
    split_of_patient,
    write_shard,
)
from medcodi.data.sources.announced import AnnouncedStudy, LeftOut
from medcodi.errors import DataError
from medcodi.storage.job_folder import damage

BAD = LeftOut(file="gone.png", reason="missing file", detail="gone.png is missing")


def shard_of(*records: AnnouncedStudy) -> Shard:
    places = tuple(range(10, 10 + len(records)))
    return Shard(split="val", index=3, places=places, studies=records)


def study(number: int, **more) -> AnnouncedStudy:
    return AnnouncedStudy(study_id=f"s{number}", patient_id="p", texts={"report": f"Number {number}."}, **more)


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
def test_rows_are_read_back_and_bad_studies_are_left_out(tmp_path: Path, file_format: str) -> None:
    records = [study(number) for number in range(2 * ROWS_PER_BATCH + 1)]
    written = write_shard(shard_of(*records, study(99, refused=BAD)), tmp_path, 16, file_format)
    ((name, row),) = written.files.items()
    assert name == f"val/data-00003.{file_format}" and not damage(tmp_path / name, row)
    if file_format == "arrow":
        rows = pa.ipc.open_stream(pa.memory_map(str(tmp_path / name))).read_all()
    else:
        rows = pq.read_table(tmp_path / name)
    assert rows.column("study_id").to_pylist() == [record.study_id for record in records]
    assert set(rows.column("split").to_pylist()) == {"val"}
    assert written.rows == len(records) and written.left_out == 1
    assert list(written.digests) == list(range(10, 10 + len(records)))
    assert next(entry.reason for place, entry in written.entries if place == 10 + len(records)) == "missing file"
    assert WrittenShard.from_record(json.loads(json.dumps(asdict(written)))) == written


def test_equal_rows_have_equal_digests_wherever_they_are(tmp_path: Path) -> None:
    first = write_shard(shard_of(study(1), study(2)), tmp_path / "a", 16, "arrow").digests
    second = write_shard(shard_of(study(2), study(1)), tmp_path / "b", 16, "parquet").digests
    assert first[10] == second[11] != first[11] == second[10]


def test_a_shard_without_a_good_study_has_no_file(tmp_path: Path) -> None:
    written = write_shard(shard_of(study(1, refused=BAD)), tmp_path, 16, "arrow")
    assert not written.files and written.rows == 0 and written.left_out == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_shares_of_patients_are_those_asked_for_and_a_new_seed_divides_anew() -> None:
    patients = [f"p{number}" for number in range(4000)]
    splits = [split_of_patient(patient, seed=0, val=0.1, test=0.2) for patient in patients]
    for name, share in (("val", 0.1), ("test", 0.2), ("train", 0.7)):
        assert splits.count(name) / len(splits) == pytest.approx(share, abs=0.03)  # four standard deviations
    assert splits != [split_of_patient(patient, seed=1, val=0.1, test=0.2) for patient in patients]


def test_an_official_split_decides_for_the_patient_s_other_studies() -> None:
    splits = PatientSplits(seed=0, val=0.0, test=0.0)
    assert (
        splits.place("p", "test") == "test" and splits.place("p", None) == "test" and splits.place("q", None) == "train"
    )
    with pytest.raises(DataError, match="'p' is in two splits, 'test' and 'val'"):
        splits.place("p", "val")


@pytest.mark.parametrize(("num", "size"), [(1, 32), (100, 32), (20_000, 79)])  # ceil(20,000 / 256) = 79
def test_shards_hold_every_study_of_one_split_once_in_the_source_s_order(num: int, size: int) -> None:
    records = [AnnouncedStudy(study_id=str(number), patient_id="") for number in range(num)]
    splits = ["val" if number % 5 == 0 else "train" for number in range(num)]
    shards = plan_shards(records, splits)
    assert sorted(place for shard in shards for place in shard.places) == list(range(num))
    for shard in shards:
        assert {splits[place] for place in shard.places} == {shard.split} and list(shard.places) == sorted(shard.places)
        assert [record.study_id for record in shard.studies] == [str(place) for place in shard.places]
        assert len(shard.places) <= size
    assert len({shard.name for shard in shards}) == len(shards) and shards[0].name == "val-00000"
