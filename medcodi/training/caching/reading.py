"""Read a cache: memory-mapped, the rows of a batch alone, each checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcodi.data.dataset import StudyDataset
from medcodi.errors import DataError
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.stages.encoded import EncodedBatch
from medcodi.training.caching import files
from medcodi.training.caching.files import Note
from medcodi.training.caching.key import CacheKey

AGAIN = "medcodi data cache … --overwrite encodes what is damaged again"


def open_cache(folder: Path, key: CacheKey, dataset: StudyDataset | None = None) -> EncodedStudies:
    """Open a cache, whole and of this key.

    Args:
        folder: Of the cache.
        key: What it must have been made from.
        dataset: The dataset itself, if its modalities are to be counted against the cache's.

    Raises:
        DataError: If there is none, it is unfinished, of another key, a part of it is missing or cut, or counts differ.
    """
    info = files.read_info(folder)
    if info is None:
        raise DataError(f"no cache at {folder}", expected=f"a folder with {files.INFO}", fix="medcodi data cache")
    CacheKey.from_json(info["key"]).check(folder, key)
    counted = getattr(dataset, "modality_counts", None)
    if counted is not None and info["complete"]:
        held = {name: count for name, count in counted().items() if name in info["present"]}
        told = {name: info["present"][name] for name in held}
        if told != held:
            raise DataError(f"{folder} counts {told}", expected=f"{held}, as the dataset does", fix=AGAIN)
    return EncodedStudies(folder)


class EncodedStudies:
    """A dataset of encoded studies. Files are mapped when they are first read, in each process anew.

    Attributes:
        name: The dataset's, marked as encoded.
        image_size: Of the dataset that was encoded.
        fingerprint: Of the dataset that was encoded.
        key: What it was made from.
        present: Modality -> how many studies have it.
        num_bytes: Of all files but the names.
    """

    def __init__(self, folder: Path) -> None:
        """Find the files.

        Raises:
            DataError: If there are none, or one is missing or not of its size.
        """
        info = files.read_info(folder)
        if info is None or not info["complete"]:
            raise DataError(f"{folder} holds no finished cache", fix="run medcodi data cache again: it goes on")
        self.folder, self.key = folder, CacheKey.from_json(info["key"])
        self.name = f"{self.key.dataset} (encoded)"
        self.image_size, self.fingerprint = self.key.image_size, self.key.data
        self._parts: list[dict[str, Any]] = info["parts"]
        self.present: dict[str, int] = info["present"]
        self.num_bytes = sum(part["bytes"] for part in [*self._parts, info["nulls"]])
        self._ids: list[list[str]] = []  # [study, patient] of each row
        for part in self._parts:
            self._ids += self._checked(part).ids
        self._check_size(info["nulls"])
        if len(self._ids) != self.key.studies:
            raise DataError(f"{folder} holds {len(self._ids):,} studies", expected=f"{self.key.studies:,}", fix=AGAIN)
        self._size = int(self._parts[0]["rows"])  # of every part but the last
        self._maps: dict[int, np.ndarray] = {}
        self._nulls = self._read_nulls()

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Any:
        raise TypeError("an encoded study has no pixels and no words; read batches of it")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # or workers would be sent whole files

    def study_id(self, index: int) -> str:
        """Of one study."""
        return self._ids[index][0]

    def read_batch(self, samples: Sequence[int]) -> EncodedBatch:
        """The rows with these indices.

        Raises:
            DataError: If one of them is damaged.
        """
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
        if files.damaged(record):
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
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if found.shape != (part["rows"],) or files.CRC not in (found.dtype.names or ()):
                raise ValueError(f"an array {found.shape} of {found.dtype.kind!r}")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read: {error}", expected="a part as written", fix=AGAIN) from error
        return found

    def _read_nulls(self) -> dict[str, PromptEncoding]:
        record = np.array(self._mapped({"file": files.NULLS, "rows": 1}))
        if files.damaged(record):
            raise DataError(f"{self.folder / files.NULLS} is damaged", expected="the bytes as written", fix=AGAIN)
        return {name: _prompts([record], name) for name in self.key.modalities}

    def _checked(self, part: dict[str, Any]) -> Note:
        self._check_size(part)
        path = self.folder / Path(part["file"]).with_suffix(".json")
        note = Note.read(path)
        if note is None or len(note.ids) != part["rows"] or note.sha256 != part["sha256"]:
            raise DataError(f"{path} is missing or damaged", expected=f"the names of {part['rows']} studies", fix=AGAIN)
        return note

    def _check_size(self, part: dict[str, Any]) -> None:
        path = self.folder / part["file"]
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
        if size != f"{part['bytes']:,} bytes":
            raise DataError(f"{path}: {size}", expected=f"{part['bytes']:,} bytes, as written", fix=AGAIN)


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
