"""The plan of a synthesis: its settings; its shards (studies) and batches, a function of the manifest and the batch size, never of the ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medcodi.config import config
from medcodi.errors import PromptError
from medcodi.generation.bulk.manifest import Row, RowDefaults
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig


@config
class SynthesisConfig:
    """How a manifest is carried out; all of it is part of the identity that a resumed run must have."""

    generation: GenerationConfig = GenerationConfig()
    defaults: RowDefaults = RowDefaults()  # for cells that rows leave empty
    keep: tuple[str, ...] = ()  # columns copied from the manifest into the results
    batch_size: int = 8  # samples denoised together; short batches are filled up, so that all have the same shape
    shard_size: int = 1000  # studies in a folder
    image_format: str = "png"  # png, png16 or dicom
    threads: int = 1  # CPU threads of a rank, if the model runs on the CPU: rounding depends on it
    execution: ExecutionConfig = ExecutionConfig()

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_size", "threads"):
            if getattr(self, name) < 1:
                raise PromptError(f"{name} is {getattr(self, name)}", expected="at least 1", fix=f"correct {name}")


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
