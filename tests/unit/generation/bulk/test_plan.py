"""The plan of a synthesis: batches of one direction, the same for any number of ranks."""

import pytest

from medcodi.distributed import Ranks
from medcodi.generation.bulk.manifest import Row
from medcodi.generation.bulk.plan import batches, shards_of
from medcodi.study import Direction


def row(number: int, name: str, target: str, num_samples: int, seed: int = 0) -> Row:
    direction = Direction(("report",), (target,))
    return Row(
        number=number, id=name, direction=direction, prompts={"report": "x"}, weights={"report": 1.0}, seed=seed, num_samples=num_samples
    )  # fmt: skip


ROWS = [row(1, "a", "frontal", 3, seed=5), row(2, "b", "lateral", 1), row(3, "c", "frontal", 2)]


def test_every_sample_is_a_shard_with_its_own_seed():
    shards = shards_of(ROWS)
    assert [shard.study_id for shard in shards] == ["a-0", "a-1", "a-2", "b", "c-0", "c-1"]
    assert [shard.seed for shard in shards[:3]] == [5, 6, 7] and [shard.index for shard in shards] == list(range(6))


def test_batches_are_of_one_direction_in_the_order_of_their_first_shards():
    names = [[shard.study_id for shard in batch] for batch in batches(shards_of(ROWS), 2)]
    assert names == [["a-0", "a-1"], ["a-2", "c-0"], ["b"], ["c-1"]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_whole_batches(world_size):
    plan = batches(shards_of(ROWS), 2)
    shared = [Ranks(rank, world_size).share(plan) for rank in range(world_size)]
    assert sorted(shard.index for share in shared for batch in share for shard in batch) == list(range(6))
