"""A cache on disk: its identity (weights, data, settings), its shards, and one record of numbers for each study, with its CRC-32."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.config import to_dict
from medcodi.data.dataset import StudyDataset
from medcodi.errors import DataError
from medcodi.model import MedCoDi
from medcodi.model.identity import tokenizer_hashes
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobKind, file_row

# ---- identity --------------------------------------------------------------------------------------------------------
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """Everything that decides the bytes of a cache."""

    weights: str  # hash of the autoencoders and prompt encoders: files, tokenizers, configuration
    data: str  # fingerprint of the dataset
    dataset: str  # its name
    split: str  # ``train``, ``val`` or ``test``
    studies: int  # number of studies
    image_size: int  # pixels a side
    precision: str  # autocast precision of the encoders
    context: str  # what the denoisers attend to; ``pooled`` stores no tokens
    modalities: tuple[str, ...]  # of the model

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "modalities": list(self.modalities)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CacheKey:
        """Read it back."""
        return cls(**{**values, "modalities": tuple(values["modalities"])})


def cache_key(model: MedCoDi, dataset: StudyDataset, *, split: str = "train", precision: str = "fp32") -> CacheKey:
    """The key of a dataset's cache by a model, by its files where it has any; no weights are loaded then.

    ``precision`` is the encoders' autocast precision: ``fp32`` or ``bf16``.
    """
    return CacheKey(
        weights=encoder_hash(model),
        data=dataset.fingerprint,
        dataset=dataset.name,
        split=split,
        studies=len(dataset),
        image_size=dataset.image_size,
        precision=precision,
        context=model.config.context,
        modalities=tuple(model.config.modalities),
    )


def encoder_names(model: MedCoDi) -> list[str]:
    """The components whose outputs a cache stores."""
    return [name for name in model.components() if name.startswith("autoencoder_") or name == "prompt_encoders"]


def encoder_hash(model: MedCoDi) -> str:
    """SHA-256 over files, tokenizers and configuration of the autoencoders and prompt encoders, as hexadecimal."""
    names = encoder_names(model)
    if model.files is None:
        weights: Any = model.fingerprint(names)
    else:
        index = model.files.index
        weights = [{name: index["components"][name]["sha256"] for name in names}, tokenizer_hashes(index)]
    settings = to_dict(model.config)
    names = ("image_size", "prompt_encoders", "image_autoencoder", "report_autoencoder", "record")
    parts = {name: settings[name] for name in names if name in settings}
    if parts.get("record"):  # its denoiser encodes nothing
        parts["record"] = {key: value for key, value in parts["record"].items() if key != "denoiser"}
    return hashlib.sha256(json.dumps([weights, parts], sort_keys=True).encode()).hexdigest()


# ---- files -----------------------------------------------------------------------------------------------------------
NULLS = "nulls.npy"
CRC = "crc32"
MAX_SHARDS = 256  # each stays open while it is mapped, and a process may open about a thousand
MIN_STUDIES = 32

CACHE = JobKind(
    name="a cache of encoded studies",
    index_file="cache.json",
    identity_key="key",
    index_header={"format": "medcodi-cache/1"},
    record_file="{shard}.json",
    old_shard_file="{shard}.npy",
    own_patterns=(NULLS, "part-*.npy", "part-*.json"),
    error=DataError,
    fix="name another cache folder, or make this one again: medcodi data cache … --overwrite",
    resume="run it again: finished shards stay",
)


def plan_shards(num_studies: int) -> dict[str, range]:
    """Shard -> its studies, of a size that follows from the number of studies alone."""
    size = max(MIN_STUDIES, -(-num_studies // MAX_SHARDS))
    starts = range(0, num_studies, size)
    return {f"part-{i:05d}": range(start, min(start + size, num_studies)) for i, start in enumerate(starts)}


def file_row_of(shard: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """``bytes`` and ``sha256`` of a shard's file; records of version 0.1 hold them themselves."""
    return record["files"][f"{shard}.npy"] if "files" in record else record


def sealed(records: np.ndarray) -> np.ndarray:
    """The records, with the CRC-32 of each in its last field."""
    # A record holds everything of a study in one piece: reading a row is reading one place of the file.
    records[CRC] = [zlib.crc32(row) for row in _bytes_before_crc(records)]
    return records


def damaged(records: np.ndarray) -> list[int]:
    """Rows whose bytes are not those that were written."""
    stored = records[CRC].tolist()
    return [row for row, data in enumerate(_bytes_before_crc(records)) if zlib.crc32(data) != stored[row]]


def _bytes_before_crc(records: np.ndarray) -> Iterator[memoryview]:
    raw = records.view(np.uint8).reshape(len(records), records.dtype.itemsize)
    return (row[: -records.dtype[CRC].itemsize].data for row in raw)


def write_array(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Write an array as ``.npy``, whole or not at all; returns its ``bytes`` and ``sha256``."""
    data = io.BytesIO()  # numpy's own writing to a file does not tell a full disk
    np.save(data, array, allow_pickle=False)
    atomic.write_bytes(path, data.getbuffer(), error=CACHE.error, then=CACHE.resume)
    return file_row(path)
