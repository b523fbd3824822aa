"""Shards of a prepared dataset: at least 32 studies of one split in one file, written whole by any process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from medcodi.data.dataset import row_from_study
from medcodi.data.preparation.ledger import Entry, entries_of
from medcodi.data.preparation.plan import Shard
from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobKind, file_row
from medcodi.study import CHEXPERT_LABELS

ROWS_PER_BATCH = 16  # of an Arrow record batch: what one write holds in memory


class Interrupted(DataError):  # noqa: N818 -- not the data's fault: finished shards stay
    """Preparation stopped for a cause outside the data; run again, it resumes."""


PREPARATION = JobKind(
    name="an unfinished preparation",
    staged=".{target}.partial",
    error=Interrupted,
    choose="remove it, or choose another --out",
)


@dataclass(frozen=True, kw_only=True)
class WrittenShard:
    """The record of a shard."""

    # File, relative to the dataset -> its ``bytes`` and ``sha256``; empty where no study is kept
    files: dict[str, dict[str, Any]]
    rows: int  # studies in it
    digests: dict[int, str]  # place in the source -> SHA-256 of the study's row
    entries: list[tuple[int, Entry]]  # (place in the source, row of the ledger)
    left_out: int  # studies left out

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> WrittenShard:
        """Read it back from JSON."""
        digests = {int(place): digest for place, digest in record["digests"].items()}
        entries = [(place, Entry(**entry)) for place, entry in record["entries"]]
        return cls(**{**record, "digests": digests, "entries": entries})


def write_shard(shard: Shard, folder: Path, image_size: int, file_format: str) -> WrittenShard:
    """Read the studies of a shard and write them below ``folder`` as ``arrow`` or ``parquet``, whole or not at all.

    Raises:
        Interrupted: If the disk is full or cannot be written.
    """
    file = f"{shard.split}/data-{shard.index:05d}.{file_format}"
    digests: dict[int, str] = {}
    entries: list[tuple[int, Entry]] = []

    # Rows are read while they are written; what becomes of each file is entered in the ledger.
    def rows() -> Iterator[dict[str, Any]]:
        for place, record in zip(shard.places, shard.records, strict=True):
            loaded = record.load(image_size)
            entries.extend((place, entry) for entry in entries_of(record, loaded, shard.split))
            if loaded.study is not None:
                row = row_from_study(loaded.study, shard.split)
                digests[place] = _digest(row)
                yield row

    with atomic.replacing(folder / file, error=PREPARATION.error, then=PREPARATION.then) as partial:
        _WRITERS[file_format](partial, rows())
        if not digests:
            partial.unlink()  # no study is kept: no file
    return WrittenShard(
        files={file: file_row(folder / file)} if digests else {},
        rows=len(digests),
        digests=digests,
        entries=entries,
        left_out=len(shard.records) - len(digests),
    )


def _digest(row: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for key in sorted(row):
        value = row[key]
        data = b"-" if value is None else value.encode() if isinstance(value, str) else bytes(value)
        digest.update(f"{key}:{len(data)}:".encode() + data)
    return digest.hexdigest()


def _schema() -> Any:
    import pyarrow as pa

    columns = {name: pa.binary() if row.kind == "image" else pa.string() for name, row in MODALITIES.items()}
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

    while batch := list(islice(rows, ROWS_PER_BATCH)):
        yield pa.RecordBatch.from_pylist(batch, schema=schema)


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
