"""The held-out studies: where their truth comes from, shards, hashes, and studies that cannot be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medcodi.data.dataset import row_from_study
from medcodi.errors import DataError
from medcodi.evaluation.studies import HeldOutStudies, StudyShard, content_sha256, eight_bit, shards_of
from medcodi.study import CHEXPERT_LABELS, Direction


def test_contents_hash_as_files_of_8_bits_would() -> None:
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    rounded = eight_bit(image)
    np.testing.assert_allclose(rounded, image, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(eight_bit(rounded), rounded)
    assert content_sha256(rounded) == content_sha256(image) != content_sha256(image.reshape(4, 3))
    assert content_sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_shard_is_the_same_studies_whatever_else_there_is() -> None:
    assert shards_of(range(5), 2) == [StudyShard(0, (0, 1)), StudyShard(1, (2, 3)), StudyShard(2, (4,))]
    assert shards_of([4, 1], 2) == [StudyShard(0, (1,)), StudyShard(2, (4,))]


def test_truth_comes_from_the_report_if_no_study_has_labels(toy_dataset) -> None:
    dataset = toy_dataset(6, seed=5)
    labelled = HeldOutStudies(dataset)
    dataset.studies = [replace(study, labels={}) for study in dataset.studies]
    read = HeldOutStudies(dataset)
    assert (labelled.truth_source, read.truth_source) == ("labels", "reference report")
    np.testing.assert_array_equal(read.truth, labelled.truth)


def test_a_blank_label_is_absent_if_the_study_has_others(toy_dataset) -> None:
    """As CheXpert's tables are stored: 1, 0, -1, blank. Only what is uncertain, or of a study without labels, is unknown."""
    dataset = toy_dataset(3, seed=5)
    labels = ({"Edema": 1.0, "Fracture": -1.0}, {"Edema": 0.0}, {})
    stored = [
        row_from_study(replace(one, labels=own), "test") for one, own in zip(dataset.studies, labels, strict=True)
    ]
    dataset.studies = [
        replace(study, labels={name: float(value) for name, value in zip(CHEXPERT_LABELS, row["labels"], strict=True)})
        for study, row in zip(dataset.studies, stored, strict=True)
    ]
    edema, fracture, lesion = (CHEXPERT_LABELS.index(name) for name in ("Edema", "Fracture", "Lung Lesion"))
    truth = HeldOutStudies(dataset).truth
    assert truth[0, edema] == 1 and np.isnan(truth[0, fracture]) and truth[0, lesion] == 0
    assert (truth[1] == 0).all() and np.isnan(truth[2]).all()
    given = HeldOutStudies(dataset, unmentioned="unknown").truth
    assert given[0, edema] == 1 and given[1, edema] == 0 and np.isnan(given).sum() == 3 * 14 - 2


def test_an_unreadable_study_stops_or_is_listed(toy_dataset) -> None:
    class Broken(toy_dataset):  # type: ignore[misc, valid-type]
        def study_id(self, index: int) -> str:
            return f"toy{index}"

        def __getitem__(self, index: int):
            if index == 2:
                raise OSError("disk")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="'toy2'"):
        HeldOutStudies(Broken(6))
    held_out = HeldOutStudies(Broken(6), exclude_unreadable=True)
    assert [one.study_id for one in held_out.excluded] == ["toy2"]
    assert held_out.ids == ["toy0", "toy1", "toy3", "toy4", "toy5"] and held_out.studies.places == [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(held_out.studies[2].images["frontal"], Broken(6).studies[3].images["frontal"])


def test_a_study_twice_is_refused(toy_dataset) -> None:
    dataset = toy_dataset(5)
    dataset.studies[3] = replace(dataset.studies[3], contents={"report": "Clear."})
    held_out = HeldOutStudies(dataset)
    assert held_out.having(["frontal"]) == [0, 1, 2, 4] == held_out.usable(Direction.parse("report->frontal"))
    dataset.studies[4] = dataset.studies[3]
    with pytest.raises(DataError, match="'toy3' twice"):
        HeldOutStudies(dataset)


def test_images_are_dropped_from_memory_and_read_again(toy_dataset, monkeypatch) -> None:
    monkeypatch.setattr("medcodi.evaluation.studies.MEMORY_BYTES", 3 * 2 * 32 * 32 * 4)  # three studies of two views
    held_out = HeldOutStudies(toy_dataset(6))
    first = [held_out.values("frontal", [row])[0] for row in range(6)]
    again = held_out.values("frontal", list(range(6)))
    np.testing.assert_array_equal(np.stack(first), np.stack(again))
