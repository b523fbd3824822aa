"""The plan of a synthesis: its shards (studies) and batches, a function of the manifest and the batch size, never of the ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medcodi.generation.bulk.manifest import Row


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyShard:
    """One sample of one row: one study of the results."""

    row: Row
    sample: int  # position among the row's samples, from 0
    index: int  # position among all shards

    @property
    def study_id(self) -> str:
        """Unique in the results."""
        return self.row.study_id(self.sample)

    @property
    def seed(self) -> int:
        """Seed of this sample."""
        return self.row.seed + self.sample


def shards_of(rows: Iterable[Row]) -> list[StudyShard]:
    """Every sample of every row, in order."""
    pairs = ((row, sample) for row in rows for sample in range(row.num_samples))
    return [StudyShard(row=row, sample=sample, index=index) for index, (row, sample) in enumerate(pairs)]


def batches(shards: Sequence[StudyShard], batch_size: int) -> list[list[StudyShard]]:
    """Batches of one direction and order each, by their first shards; the last of a direction may be short."""
    open_batches: dict[object, list[StudyShard]] = {}  # by direction and order
    result: list[list[StudyShard]] = []
    for shard in shards:
        key = shard.row.direction, shard.row.order
        batch = open_batches.get(key)
        if batch is None or len(batch) == batch_size:
            batch = open_batches[key] = []
            result.append(batch)
        batch.append(shard)
    return result
