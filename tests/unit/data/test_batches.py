"""Global batches: the same for any number of ranks, from any step; workers that read ahead."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from medcodi.data.batches import GlobalBatches, StepBatches
from medcodi.data.loading import Batch
from medcodi.errors import ConfigError, DataError
from medcodi.study import Study
from tests.unit.data.cards import Cards, same


def samples_of(steps: list[StepBatches]) -> list[tuple[int, ...]]:
    return [sum((batch.samples for batch in step.micro), ()) for step in steps]


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
