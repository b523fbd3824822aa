"""Shards of a prepared dataset: a few hundred studies of one split in one file, written whole by whichever process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medcodi.data.dataset import row_from_study
from medcodi.data.ledger import Entry, entries_of
from medcodi.data.sources.record import Record
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS

MAX_SHARDS = 256  # of a dataset: each stays open while it is mapped, and a process may open about a thousand
MIN_STUDIES = 32
ROWS_PER_BATCH = 16  # of an Arrow record batch: what one write holds in memory


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Work for one process at a time.

    Attributes:
        split: Of all its studies.
        index: Within its split.
        places: Of its studies in the source.
        records: What is to be read.
    """

    split: str
    index: int
    places: tuple[int, ...]
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """``train-00003``."""
        return f"{self.split}-{self.index:05d}"


@dataclass(frozen=True, kw_only=True)
class WrittenShard:
    """What was written of a shard.

    Attributes:
        file: Relative to the dataset; "" where no study could be kept.
        rows: Studies in it.
        bytes: Of the file.
        sha256: Of the file.
        digests: Place in the source -> SHA-256 of the study's row.
        entries: (place in the source, row of the ledger).
        left_out: Studies left out.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    digests: dict[int, str]
    entries: list[tuple[int, Entry]]
    left_out: int

    def to_json(self) -> str:
        """Itself as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WrittenShard:
        """Read it back."""
        values = json.loads(text)
        values["digests"] = {int(place): digest for place, digest in values["digests"].items()}
        values["entries"] = [(place, Entry(**entry)) for place, entry in values["entries"]]
        return cls(**values)

    def is_whole(self, folder: Path) -> bool:
        """Whether its file lies in ``folder`` as it was written."""
        if not self.file:
            return True
        path = folder / self.file
        return path.is_file() and path.stat().st_size == self.bytes


def plan_shards(records: Sequence[Record], splits: Sequence[str]) -> list[Shard]:
    """Cut a source into shards: by split, in the source's order, of a size that depends on the number of studies only.

    Args:
        records: All studies.
        splits: The split of each.
    """
    size = max(MIN_STUDIES, -(-len(records) // MAX_SHARDS))
    shards = []
    for split in dict.fromkeys(splits):
        places = [place for place, name in enumerate(splits) if name == split]
        for start in range(0, len(places), size):
            chosen = tuple(places[start : start + size])
            shards.append(
                Shard(
                    split=split, index=start // size, places=chosen, records=tuple(records[place] for place in chosen)
                )
            )
    return shards


def write_shard(shard: Shard, folder: Path, image_size: int, file_format: str) -> WrittenShard:
    """Read the studies of a shard and write them; the file appears under its name only when it is whole.

    Args:
        shard: The work.
        folder: Of the dataset.
        image_size: Pixels a side.
        file_format: ``arrow`` or ``parquet``.

    Raises:
        OSError: If the disk is full or cannot be written.
    """
    file = f"{shard.split}/data-{shard.index:05d}.{file_format}"
    digests: dict[int, str] = {}
    entries: list[tuple[int, Entry]] = []

    def rows() -> Iterator[dict[str, Any]]:
        for place, record in zip(shard.places, shard.records, strict=True):
            loaded = record.load(image_size)
            entries.extend((place, entry) for entry in entries_of(record, loaded, shard.split))
            if loaded.study is not None:
                row = row_from_study(loaded.study, shard.split)
                digests[place] = _digest(row)
                yield row

    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _WRITERS[file_format](temporary, rows())
        size, sha256 = _finish(temporary, path) if digests else (0, "")
    finally:
        temporary.unlink(missing_ok=True)
    return WrittenShard(
        file=file if digests else "",
        rows=len(digests),
        bytes=size,
        sha256=sha256,
        digests=digests,
        entries=entries,
        left_out=len(shard.records) - len(digests),
    )


def _finish(temporary: Path, path: Path) -> tuple[int, str]:
    with temporary.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    size = temporary.stat().st_size
    temporary.replace(path)
    return size, digest


def _digest(row: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for key in sorted(row):
        value = row[key]
        data = b"-" if value is None else value.encode() if isinstance(value, str) else bytes(value)
        digest.update(f"{key}:{len(data)}:".encode() + data)
    return digest.hexdigest()


def _schema() -> Any:
    import pyarrow as pa

    columns = {name: pa.string() if row.kind == "text" else pa.binary() for name, row in MODALITIES.items()}
    return pa.schema(
        {
            "study_id": pa.string(),
            "patient_id": pa.string(),
            "split": pa.string(),
            **columns,
            "labels": pa.list_(pa.float32(), len(CHEXPERT_LABELS)),
            "findings": pa.string(),
            "metadata": pa.string(),
        }
    )


def _batches(rows: Iterator[dict[str, Any]], schema: Any) -> Iterator[Any]:
    import pyarrow as pa

    held: list[dict[str, Any]] = []
    for row in rows:
        held.append(row)
        if len(held) == ROWS_PER_BATCH:
            yield pa.RecordBatch.from_pylist(held, schema=schema)
            held = []
    if held:
        yield pa.RecordBatch.from_pylist(held, schema=schema)


def _write_arrow(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa

    schema = _schema()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in _batches(rows, schema):
            writer.write_batch(batch)


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow.parquet as pq

    schema = _schema()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(rows, schema):
            writer.write_batch(batch)


_WRITERS = {"arrow": _write_arrow, "parquet": _write_parquet}
FILE_FORMATS = tuple(_WRITERS)
