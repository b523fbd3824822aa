"""The plan of a synthesis: studies and their batches, a function of the manifest and the batch size alone, never of the ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medcodi.generation.bulk.manifest import Row


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One sample of one row: one study of the result.

    Attributes:
        row: What was asked.
        sample: Its place among the row's samples, from 0.
        index: Its place among all.
    """

    row: Row
    sample: int
    index: int

    @property
    def study_id(self) -> str:
        """Unique in the result."""
        return self.row.study_id(self.sample)

    @property
    def seed(self) -> int:
        """Of this sample."""
        return self.row.seed + self.sample


def all_items(rows: Iterable[Row]) -> list[Item]:
    """Every sample of every row, in order."""
    pairs = ((row, sample) for row in rows for sample in range(row.num_samples))
    return [Item(row=row, sample=sample, index=index) for index, (row, sample) in enumerate(pairs)]


def blocks(items: Sequence[Item], batch_size: int) -> list[list[Item]]:
    """Batches of one direction each, in the order of their first items; the last of a direction may be short."""
    current: dict[object, list[Item]] = {}
    all_blocks: list[list[Item]] = []
    for item in items:
        block = current.get(item.row.direction)
        if block is None or len(block) == batch_size:
            block = current[item.row.direction] = []
            all_blocks.append(block)
        block.append(item)
    return all_blocks
