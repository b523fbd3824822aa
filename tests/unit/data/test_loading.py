"""A batch of studies as tensors, and the studies that a config names."""

from __future__ import annotations

import pytest
import torch

from medcodi.config import from_dict
from medcodi.data.batches import GlobalBatches
from medcodi.data.dataset import FirstStudies, StudyDataset
from medcodi.data.loading import DataConfig, collate
from medcodi.errors import ConfigError, DataError
from medcodi.modality import MODALITIES, names
from medcodi.study import CHEXPERT_LABELS
from tests.unit.data.cards import SIZE, Cards, same


def test_collate_marks_what_is_absent() -> None:
    indices = [0, 3, 4, 5]
    batch = collate([Cards(9)[index] for index in indices], indices, SIZE)
    assert len(batch) == 4
    assert batch.samples == (0, 3, 4, 5)
    assert batch.study_ids == ["s0", "s3", "s4", "s5"]
    assert batch.patient_ids == ["p0", "p1", "p2", "p2"]
    for name in names("image"):
        images = batch.contents[name]
        assert isinstance(images, torch.Tensor)
        assert images.shape == (4, 1, SIZE, SIZE)
        assert images.dtype == torch.float32
        assert batch.present[name].tolist() == [False, True, False, True]
        assert images.amax((1, 2, 3)).tolist() == pytest.approx([0, 0.03, 0, 0.05])
    for name in names("text"):
        assert batch.contents[name] == ["", "", "report 4", "report 5"]
        assert batch.present[name].tolist() == [False, False, True, True]


def test_collate_puts_labels_in_chexperts_order() -> None:
    batch = collate([Cards(9)[1], Cards(9)[2]], [1, 2], SIZE)
    assert batch.labels.shape == (2, len(CHEXPERT_LABELS))
    known = {
        name: value for name, value in zip(CHEXPERT_LABELS, batch.labels[0].tolist(), strict=True) if value == value
    }
    assert known == {"Edema": 1.0, "Fracture": -1.0}
    assert batch.labels[1].isnan().all()


def test_collate_refuses_another_size_by_name() -> None:
    with pytest.raises(DataError, match=r"s5.*8×8.*16×16"):
        collate([Cards(9)[5]], [5], 16)


def test_an_empty_batch() -> None:
    batch = collate([], [], SIZE)
    assert len(batch) == 0
    assert batch.labels.shape == (0, len(CHEXPERT_LABELS))


def test_rows_and_to() -> None:
    whole = collate([Cards(9)[index] for index in range(6)], range(6), SIZE)
    parts = [whole.rows(0, 2), whole.rows(2, 6)]
    assert [len(part) for part in parts] == [2, 4]
    assert same(parts[1], collate([Cards(9)[index] for index in range(2, 6)], range(2, 6), SIZE))
    assert parts[1].study_ids == whole.study_ids[2:]
    moved = whole.to("meta")
    assert all(value.is_meta for value in moved.contents.values() if isinstance(value, torch.Tensor))
    assert moved.labels.is_meta
    assert moved.samples == whole.samples


def test_first_studies() -> None:
    few = FirstStudies(Cards(10), 3)
    assert isinstance(few, StudyDataset)
    assert len(few) == 3
    assert [few[index].study_id for index in (0, 2, -1)] == ["s0", "s2", "s2"]
    assert few.fingerprint != Cards(10).fingerprint
    for index in (3, -4):
        with pytest.raises(IndexError):
            few[index]
    with pytest.raises(DataError, match="num_studies=10"):
        FirstStudies(Cards(10), 11)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give one of them"),
        ({"path": "a", "source": "phantom", "num_studies": 3}, "give one of them"),
        ({"source": "phantom"}, "needs num_studies"),
        ({"source": "phantoms", "num_studies": 3}, "did you mean 'phantom'"),
        ({"source": "phantom", "num_studies": 0}, "at least 1"),
        ({"source": "phantom", "num_studies": 10_000_001}, "at most 10,000,000"),
        ({"source": "phantom", "num_studies": 3, "split": "valid"}, "did you mean 'val'"),
        ({"source": "phantom", "num_studies": 3, "image_size": 8}, "at least 16"),
        ({"source": "phantom", "num_studies": 3, "image_sise": 64}, "image_size"),
        ({"source": "phantom", "num_studies": "many"}, "num_studies"),
    ],
)
def test_configurations_are_refused_at_the_door(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(DataConfig, values)


def test_a_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="data prepare"):
        DataConfig(path=str(tmp_path / "none")).build()
    with pytest.raises(DataError, match="not a prepared dataset"):
        DataConfig(path=str(tmp_path)).build()


def test_the_phantom_by_configuration() -> None:
    dataset = DataConfig(source="phantom", num_studies=2, image_size=32, split="val", seed=4).build()
    assert isinstance(dataset, StudyDataset)
    assert len(dataset) == 2
    batch = GlobalBatches(dataset, batch_size=2).batches(0).micro[0]
    assert all(mask.all() == MODALITIES[name].standard for name, mask in batch.present.items())
    assert not batch.labels.isnan().any()
    with pytest.raises(DataError, match="16 pixels"):
        DataConfig(source="phantom", num_studies=2, image_size=16).build()
