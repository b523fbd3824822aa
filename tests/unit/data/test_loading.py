from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from medcodi.config import from_dict
from medcodi.data.dataset import FirstStudies, StudyDataset
from medcodi.data.loading import Batch, DataConfig, GlobalBatches, StepBatches, collate
from medcodi.errors import ConfigError, DataError
from medcodi.modality import MODALITIES, names
from medcodi.study import CHEXPERT_LABELS, Study

SIZE = 8


class Cards:
    """Studies that show their own number; every third lacks its report, every fourth its images."""

    def __init__(self, num_studies: int) -> None:
        self.name, self.image_size, self.fingerprint = "cards", SIZE, f"cards-{num_studies}"
        self._num_studies = num_studies

    def __len__(self) -> int:
        return self._num_studies

    def __getitem__(self, index: int) -> Study:
        contents: dict[str, np.ndarray | str] = {}
        if index % 4:
            contents |= {name: np.full((SIZE, SIZE), index / 100, np.float32) for name in names("image")}
        if index % 3:
            contents |= {name: f"report {index}" for name in names("text")}
        labels = {"Edema": 1.0, "Fracture": -1.0} if index % 2 else {}
        return Study(study_id=f"s{index}", patient_id=f"p{index // 2}", contents=contents, labels=labels)


def same(left: Batch, right: Batch) -> bool:
    for name in MODALITIES:
        ours, theirs = left.contents[name], right.contents[name]
        if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
            if not torch.equal(ours, theirs):
                return False
        elif ours != theirs:
            return False
        if not torch.equal(left.present[name], right.present[name]):
            return False
    return left.samples == right.samples and left.labels.nan_to_num(9).equal(right.labels.nan_to_num(9))


def samples_of(steps: list[StepBatches]) -> list[tuple[int, ...]]:
    return [sum((batch.samples for batch in step.micro), ()) for step in steps]


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


def test_ranks_share_the_same_global_batches() -> None:
    alone = [batch.micro[0] for batch in GlobalBatches(Cards(20), batch_size=6, seed=3).iterate(0, 5)]
    ranks = [
        list(GlobalBatches(Cards(20), batch_size=6, seed=3, rank=rank, world_size=2).iterate(0, 5)) for rank in (0, 1)
    ]
    for step, whole in enumerate(alone):
        assert same(ranks[0][step].micro[0], whole.rows(0, 3))
        assert same(ranks[1][step].micro[0], whole.rows(3, 6))


def test_micro_batches_split_a_ranks_share_in_order() -> None:
    whole = GlobalBatches(Cards(20), batch_size=8, seed=3).batches(2).micro[0]
    step = GlobalBatches(Cards(20), batch_size=8, seed=3, rank=1, world_size=2, accumulation=2).batches(2)
    assert step.step == 2
    assert len(step.micro) == 2
    assert same(step.micro[0], whole.rows(4, 6))
    assert same(step.micro[1], whole.rows(6, 8))


def test_it_resumes_at_any_step() -> None:
    batches = GlobalBatches(Cards(10), batch_size=4, seed=1)
    through = list(batches.iterate(0, 7))
    resumed = list(GlobalBatches(Cards(10), batch_size=4, seed=1).iterate(3, 7))
    assert [step.step for step in resumed] == [3, 4, 5, 6]
    assert all(same(ours.micro[0], theirs.micro[0]) for ours, theirs in zip(through[3:], resumed, strict=True))
    assert list(batches.iterate(7, 7)) == list(batches.iterate(8, 7)) == []


def test_iteration_has_no_end_unless_told() -> None:
    steps = GlobalBatches(Cards(3), batch_size=2).iterate(1000)
    assert [next(steps).step for _ in range(3)] == [1000, 1001, 1002]


@pytest.mark.parametrize(("size", "batch_size"), [(12, 4), (10, 4), (7, 3), (5, 8), (1, 2)])
def test_every_study_is_seen_once_an_epoch(size: int, batch_size: int) -> None:
    batches = GlobalBatches(Cards(size), batch_size=batch_size, seed=5)
    seen = [sample for step in range(3 * size) for sample in batches.samples(step)]
    for epoch in range(3):
        assert Counter(seen[epoch * size : (epoch + 1) * size]) == Counter(range(size))


def test_the_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return GlobalBatches(Cards(30), batch_size=30, seed=seed).samples(epoch)

    assert order(0, 0) == order(0, 0)
    assert len({order(0, 0), order(0, 1), order(1, 0), tuple(range(30))}) == 4


def test_the_order_does_not_touch_global_randomness() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(GlobalBatches(Cards(6), batch_size=2).iterate(0, 3))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_read_what_this_process_would(num_workers: int) -> None:
    batches = GlobalBatches(Cards(10), batch_size=4, seed=1, accumulation=2)
    ahead = GlobalBatches(Cards(10), batch_size=4, seed=1, accumulation=2, num_workers=num_workers)
    torch.manual_seed(0)
    found = list(ahead.iterate(2, 6))
    after = torch.rand(1)
    expected = list(batches.iterate(2, 6))
    assert [step.step for step in found] == [2, 3, 4, 5]
    assert samples_of(found) == samples_of(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert all(same(left, right) for left, right in zip(ours.micro, theirs.micro, strict=True))
    assert torch.equal(after, torch.rand(1, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5, "world_size": 2}, "batch_size=6"),
        ({"batch_size": 4, "world_size": 2, "accumulation": 4}, "batch_size=8"),
        ({"batch_size": 0}, "batches of 0"),
        ({"batch_size": 4, "world_size": 2, "rank": 2}, "rank 2 of 2"),
        ({"batch_size": 4, "num_workers": -1}, "-1 workers"),
        ({"batch_size": 4, "accumulation": 0}, "0 micro-batches"),
    ],
)
def test_impossible_batches_are_refused_with_the_mend(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GlobalBatches(Cards(10), **options)


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="'cards' holds no studies"):
        GlobalBatches(Cards(0), batch_size=1)


def test_a_dataset_that_makes_its_own_batches() -> None:
    class Encoded(Cards):
        def read_batch(self, samples: tuple[int, ...]) -> Batch:
            return Batch(contents={}, present={}, labels=torch.zeros(len(samples), 14), samples=samples)

    step = GlobalBatches(Encoded(10), batch_size=4).batches(0)
    assert step.micro[0].contents == {}
    assert len(step.micro[0]) == 4


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


class Damaged:
    """Studies of which one cannot be read."""

    name, image_size, fingerprint = "damaged", 8, "damaged"

    def __len__(self) -> int:
        return 4

    def study_id(self, index: int) -> str:
        return f"s{index}"

    def __getitem__(self, index: int) -> Study:
        if index == 2:
            raise RuntimeError("DataLoader: cannot reshape array of size 5")  # as torch words its own
        return Study(study_id=f"s{index}", patient_id="p", contents={"report": "Clear."})


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_study_that_cannot_be_read_is_named(num_workers: int) -> None:
    with pytest.raises(DataError, match=r"^study 's2' \(number 2 of damaged\) cannot be read: RuntimeError.*Fix: copy"):
        list(GlobalBatches(Damaged(), batch_size=4, num_workers=num_workers).iterate(0, 1))
