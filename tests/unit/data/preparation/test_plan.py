"""Splits and shards are functions of the source alone."""

from __future__ import annotations

import pytest

from medcodi.data.preparation.plan import PatientSplits, plan_shards, split_of_patient
from medcodi.data.sources.record import Record
from medcodi.errors import DataError


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
    records = [Record(study_id=str(number), patient_id="") for number in range(num)]
    splits = ["val" if number % 5 == 0 else "train" for number in range(num)]
    shards = plan_shards(records, splits)
    assert sorted(place for shard in shards for place in shard.places) == list(range(num))
    for shard in shards:
        assert {splits[place] for place in shard.places} == {shard.split} and list(shard.places) == sorted(shard.places)
        assert [record.study_id for record in shard.records] == [str(place) for place in shard.places]
        assert len(shard.places) <= size
    assert len({shard.name for shard in shards}) == len(shards) and shards[0].name == "val-00000"
