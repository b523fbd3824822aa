"""A dataset of encoded studies: the cache memory-mapped, only the rows of a batch read, each checked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcodi.data.dataset import StudyDataset
from medcodi.errors import DataError
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.stages.encoded import EncodedBatch
from medcodi.storage.checked_json import foreign
from medcodi.storage.job_folder import JobFolder
from medcodi.storage.names import plain_name
from medcodi.training.caching.format import CACHE, CRC, NULLS, CacheKey, damaged, file_row_of

AGAIN = "medcodi data cache … --overwrite encodes what is damaged again"


def open_cache(folder: Path, key: CacheKey, dataset: StudyDataset | None = None) -> EncodedStudies:
    """Open a complete cache of this key; its counts of modalities must be those of ``dataset``.

    Raises:
        DataError: If there is none, it is unfinished or of another key, a shard is missing or cut, or counts differ.
    """
    job = JobFolder(folder, CACHE, key.to_json())
    index = job.read_index()
    if index is None:
        raise DataError(f"no cache at {folder}", expected=f"a folder with {CACHE.index_file}", fix="medcodi data cache")
    job.check()
    count = getattr(dataset, "modality_counts", None)
    if count is not None and index.get("complete"):
        with _as_written(folder):
            expected = {name: num for name, num in count().items() if name in index["present"]}
            stored = {name: index["present"][name] for name in expected}
        if stored != expected:
            raise DataError(f"{folder} counts {stored}", expected=f"{expected}, as the dataset does", fix=AGAIN)
    return EncodedStudies(folder)


def _as_written(folder: Path) -> AbstractContextManager[None]:
    """Around what reads the values of a cache, which may be anybody's."""
    return foreign(str(folder), expected="a cache as medcodi data cache writes it", fix=AGAIN)


class EncodedStudies:
    """A dataset of encoded studies. Files are mapped when they are first read, in each process anew.

    Raises:
        DataError: If the cache is missing or unfinished, or a file is missing, cut or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._job = JobFolder(folder, CACHE)
        index = self._job.read_index()
        if index is None or not index.get("complete"):
            raise DataError(f"{folder} holds no finished cache", fix="run medcodi data cache again: it resumes")
        with _as_written(folder):
            self._read_index(folder, index)
        self._maps: dict[int, np.ndarray] = {}
        self._nulls = self._read_nulls()

    def _read_index(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder, self.key = folder, CacheKey.from_json(index["key"])
        self.name = f"{self.key.dataset} (encoded)"
        self.image_size, self.fingerprint = self.key.image_size, self.key.data  # of the dataset that was encoded
        self._parts: list[dict[str, Any]] = index["parts"]
        for part in self._parts:
            plain_name(part["file"], f"{folder}/{CACHE.index_file}")
        # Modality -> studies that have it.
        self.present = {str(name): int(num) for name, num in index["present"].items()}
        self.num_bytes = sum(part["bytes"] for part in [*self._parts, index["nulls"]])  # of all arrays
        self._ids = [pair for part in self._parts for pair in self._ids_of(part)]  # [study, patient] of each row
        if len(self._ids) != self.key.studies:
            raise DataError(f"{folder} holds {len(self._ids):,} studies", expected=f"{self.key.studies:,}", fix=AGAIN)
        self._size = int(self._parts[0]["rows"])  # of every shard but the last

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Any:
        raise TypeError("an encoded study has no pixels and no words; read batches of it")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # or workers would be sent whole files

    def study_id(self, index: int) -> str:
        """The id of one study."""
        return self._ids[index][0]

    def read_batch(self, samples: Sequence[int]) -> EncodedBatch:
        """The rows with these indices; refused where one of them is damaged."""
        rows = [self._record(int(sample)) for sample in samples]
        names = self.key.modalities
        return EncodedBatch(
            means={name: _stacked(rows, f"{name}.means") for name in names},
            stds={name: _stacked(rows, f"{name}.stds") for name in names},
            prompts={name: _prompts(rows, name) for name in names},
            present={name: _stacked(rows, f"{name}.present") for name in names},
            study_ids=[self._ids[sample][0] for sample in samples],
            patient_ids=[self._ids[sample][1] for sample in samples],
            samples=tuple(samples),
            nulls=self._nulls,
        )

    def _record(self, sample: int) -> np.ndarray:
        """One row, copied out of the file: a record array of length 1."""
        index, row = divmod(sample, self._size)
        if index not in self._maps:
            self._maps[index] = self._mapped(self._parts[index])
        record = np.array(self._maps[index][row : row + 1])
        if damaged(record):
            raise DataError(
                f"{self.folder / self._parts[index]['file']}, row {row}: the encodings of study "
                f"{self.study_id(sample)!r} are damaged",
                expected="the bytes that were written",
                fix=AGAIN,
            )
        return record

    def _mapped(self, part: dict[str, Any]) -> np.ndarray:
        path = self.folder / part["file"]
        try:
            records = np.load(path, mmap_mode="r", allow_pickle=False)
            if records.shape != (part["rows"],) or CRC not in (records.dtype.names or ()):
                raise ValueError(f"an array {records.shape} of {records.dtype.kind!r}")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read: {error}", expected="a shard as written", fix=AGAIN) from error
        return records

    def _read_nulls(self) -> dict[str, PromptEncoding]:
        record = np.array(self._mapped({"file": NULLS, "rows": 1}))
        if damaged(record):
            raise DataError(f"{self.folder / NULLS} is damaged", expected="the bytes as written", fix=AGAIN)
        return {name: _prompts([record], name) for name in self.key.modalities}

    def _ids_of(self, part: dict[str, Any]) -> list[list[str]]:
        shard = Path(part["file"]).stem
        record = self._job.record(shard)
        whole = record is not None and file_row_of(shard, record)["sha256"] == part["sha256"]
        if record is None or not whole or len(record["ids"]) != part["rows"]:
            raise DataError(
                f"{self.folder / part['file']} or {shard}.json is missing, cut or of another cache",
                expected=f"{part['rows']} studies, {part['bytes']:,} bytes, as written",
                fix=AGAIN,
            )
        return record["ids"]


def _stacked(rows: Sequence[np.ndarray], name: str) -> torch.Tensor:
    value = torch.from_numpy(np.concatenate([row[name] for row in rows]))
    return value if value.dtype == torch.bool else value.float()


def _prompts(rows: Sequence[np.ndarray], name: str) -> PromptEncoding:
    """Encodings of one modality, as long as the longest of these rows; without tokens where the cache holds none."""
    pooled = _stacked(rows, f"{name}.pooled")
    if f"{name}.tokens" not in (rows[0].dtype.names or ()):
        return PromptEncoding(pooled, pooled.new_zeros(len(rows), 0, 1), torch.zeros(len(rows), 0, dtype=torch.bool))
    lengths = [int(np.flatnonzero(row[f"{name}.mask"][0]).max()) + 1 for row in rows]
    longest = max(lengths)
    tokens = torch.zeros(len(rows), longest, rows[0][f"{name}.tokens"].shape[-1])
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        tokens[index, :length] = torch.from_numpy(row[f"{name}.tokens"][0, :length])
        mask[index, :length] = torch.from_numpy(row[f"{name}.mask"][0, :length])
    return PromptEncoding(pooled, tokens, mask)
