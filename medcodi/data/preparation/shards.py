"""Shards of a prepared dataset: planned from the source alone, and each written whole, by any process, with the splits of its patients."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from medcodi.data.dataset import row_from_study
from medcodi.data.preparation.ledger import Entry, entries_of
from medcodi.data.sources.announced import AnnouncedStudy
from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobKind, file_row
from medcodi.study import CHEXPERT_LABELS

MAX_SHARDS = 256  # of a dataset: each stays open while it is mapped, and a process may open about a thousand
MIN_STUDIES = 32
ROWS_PER_BATCH = 16  # of an Arrow record batch: what one write holds in memory


# ---- splits ----------------------------------------------------------------------------------------------------------
def split_of_patient(patient_id: str, *, seed: int, val: float, test: float) -> str:
    """A split drawn from the patient's identifier alone, so new patients never move old ones; shares ``val`` and ``test``."""
    from medcodi.randomness import seed_from_keys  # it imports torch: official splits do without

    u = seed_from_keys("split", seed, patient_id) / 2**63
    return "test" if u < test else "val" if u < test + val else "train"


def patient_key(patient_id: str) -> str:
    """One key for the spellings of an identifier that programs make of each other: ``P7`` and ``p7 ``, ``007``, ``7`` and ``7.0``."""
    plain = "".join(unicodedata.normalize("NFKC", patient_id).casefold().split())
    return re.sub(r"^0+(?=\d+$)", "", re.sub(r"^(\d+)\.0+$", r"\1", plain))


class PatientSplits:
    """Remembers every patient's split and refuses a second one. Spellings of one key are one patient: no split divides them."""

    def __init__(self, *, seed: int, val: float, test: float) -> None:
        self._seed, self._val, self._test = seed, val, test
        self._known: dict[str, tuple[str, str]] = {}  # key -> split, and the first spelling

    def place(self, patient_id: str, official: str | None) -> str:
        """The split of a study: the official one where there is one, else the patient's own.

        Raises:
            DataError: If the patient's studies are in two splits.
        """
        key = patient_key(patient_id)
        split = official or (
            self._known[key][0]
            if key in self._known
            else split_of_patient(patient_id, seed=self._seed, val=self._val, test=self._test)
        )
        known, spelling = self._known.setdefault(key, (split, patient_id))
        if known != split:
            other = f", also written {spelling!r}," if spelling != patient_id else ""
            raise DataError(
                f"patient {patient_id!r}{other} is in two splits, {known!r} and {split!r}",
                expected="all studies of a patient in one split",
                fix="correct the split, or leave it out for splits of our own "
                "(csv: options.columns.split=null; mimic-cxr: options.official_split=false)",
            )
        return split


# ---- plan ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Shard:
    """Work for one process at a time."""

    split: str  # of all its studies
    index: int  # within its split
    places: tuple[int, ...]  # of its studies in the source
    studies: tuple[AnnouncedStudy, ...]  # the studies to be read

    @property
    def name(self) -> str:
        """``train-00003``."""
        return f"{self.split}-{self.index:05d}"


def plan_shards(studies: Sequence[AnnouncedStudy], splits: Sequence[str]) -> list[Shard]:
    """Cut a source into shards: by split, in the source's order, of a size that depends on the number of studies only."""
    size = max(MIN_STUDIES, -(-len(studies) // MAX_SHARDS))
    shards = []
    for split in dict.fromkeys(splits):
        places = [place for place, name in enumerate(splits) if name == split]
        for start in range(0, len(places), size):
            chosen = tuple(places[start : start + size])
            of_shard = tuple(studies[place] for place in chosen)
            shards.append(Shard(split=split, index=start // size, places=chosen, studies=of_shard))
    return shards


# ---- writing ---------------------------------------------------------------------------------------------------------
class Interrupted(DataError):  # noqa: N818 -- not the data's fault: finished shards stay
    """Preparation stopped for a cause outside the data; run again, it resumes."""


PREPARATION = JobKind(
    name="an unfinished preparation",
    staging_name=".{target}.partial",
    error=Interrupted,
    fix="remove it, or choose another --out",
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
        for place, study in zip(shard.places, shard.studies, strict=True):
            loaded = study.load(image_size)
            entries.extend((place, entry) for entry in entries_of(study, loaded, shard.split))
            if loaded.study is not None:
                row = row_from_study(loaded.study, shard.split)
                digests[place] = _digest(row)
                yield row

    with atomic.replacing(folder / file, error=PREPARATION.error, then=PREPARATION.resume) as partial:
        _WRITERS[file_format](partial, rows())
        if not digests:
            partial.unlink()  # no study is kept: no file
    return WrittenShard(
        files={file: file_row(folder / file)} if digests else {},
        rows=len(digests),
        digests=digests,
        entries=entries,
        left_out=len(shard.studies) - len(digests),
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
