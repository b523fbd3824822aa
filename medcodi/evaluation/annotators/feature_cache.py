"""Features and labels kept by content: what was computed once for an image or a text is not computed again.

A folder per identity (extractor, weights, preprocessing); in it shards that are written once, under the hash of their bytes, and
renamed into place whole. So any number of processes and ranks can read and write at once, on any file system: nobody changes a file,
two that compute the same write the same answer twice, and a shard that was damaged is noticed, and not used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.errors import DataError

ROWS_PER_SHARD = 512


def content_key(value: np.ndarray | str) -> bytes:
    """SHA-256 of an image (type, shape and bytes) or a text: 32 bytes."""
    if isinstance(value, str):
        return hashlib.sha256(b"text\x00" + value.encode("utf-8", "surrogatepass")).digest()
    array = np.ascontiguousarray(value)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.digest()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole, or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}", fix="free the disk, or choose another cache folder"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


class _Shards:
    """Shards of one identity: which there are, and that each is what its name says."""

    suffix = ""

    def __init__(self, root: str | Path, identity: str, described: Any) -> None:
        self.folder = Path(root).expanduser() / identity[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"the cache {root} cannot be used: {error.strerror}", fix="choose another folder") from None
        if not (self.folder / "identity.json").is_file():
            content = json.dumps({"identity": identity, "of": described}, indent=1, default=str) + "\n"
            _write_whole(self.folder / "identity.json", content.encode())
        self._seen: set[str] = set()

    def unseen(self) -> list[Path]:
        """Whole shards that were not there, or not looked at, before."""
        fresh = sorted(path for path in self.folder.glob(f"*{self.suffix}") if path.name not in self._seen)
        self._seen.update(path.name for path in fresh)
        return [path for path in fresh if self._is_whole(path)]

    def _is_whole(self, path: Path) -> bool:
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            return False
        if digest.hexdigest()[:40] == path.name.removesuffix(self.suffix):
            return True
        warnings.warn(f"{path} is damaged; what it held is computed again", stacklevel=4)
        return False

    def add(self, content: bytes) -> Path:
        """Write one shard."""
        path = self.folder / (hashlib.sha256(content).hexdigest()[:40] + self.suffix)
        self._seen.add(path.name)
        if not path.is_file() or not self._is_whole(path):
            _write_whole(path, content)
        return path


class FeatureCache:
    """Feature vectors of one extractor, by content key. Use as a context manager, or call :meth:`flush` at the end.

    Rows lie in files that are mapped, not read; only 32 bytes of key and a place are held for each.
    """

    def __init__(self, root: str | Path, identity: str, dim: int, described: Any = None) -> None:
        """Open (or begin) the cache.

        Args:
            root: Folder of all caches.
            identity: All that a vector depends on besides the content; see ``Extractor.identity``.
            dim: Length of a vector.
            described: What ``identity`` stands for, kept beside the shards for people.

        Raises:
            DataError: If the folder cannot be used.
        """
        self.dim = dim
        self._shards = _Shards(root, identity, described)
        self._shards.suffix = ".npy"
        self._type = np.dtype([("key", "S64"), ("features", "<f4", (dim,))])
        self._places: dict[bytes, tuple[np.ndarray, int]] = {}
        self._pending: dict[bytes, np.ndarray] = {}
        self.hits = self.misses = 0  # counted by whoever extracts
        self.refresh()

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def __len__(self) -> int:
        return len(self._places) + len(self._pending)

    def refresh(self) -> None:
        """Take in what others have written since."""
        for path in self._shards.unseen():
            self._take_in(path)

    def _take_in(self, path: Path) -> None:
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return
        if rows.dtype != self._type:
            return
        for row, key in enumerate(rows["key"]):
            self._places.setdefault(bytes.fromhex(key.decode()), (rows, row))

    def get(self, key: bytes) -> np.ndarray | None:
        """The vector of a content, float32 ``[D]``, or None."""
        pending = self._pending.get(key)  # before the places: a flush fills those first, and empties this then
        if pending is not None:
            return pending
        place = self._places.get(key)
        return None if place is None else np.array(place[0][place[1]]["features"])

    def put(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Keep vectors, float32 ``[B, D]``; written to disk in shards."""
        for key, row in zip(keys, np.asarray(features, np.float32), strict=True):
            if key not in self._places:
                self._pending[key] = row.copy()
        if len(self._pending) >= ROWS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        rows = np.empty(len(self._pending), self._type)
        for place, (key, features) in enumerate(sorted(self._pending.items())):
            rows[place] = (key.hex().encode(), features)
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        self._take_in(self._shards.add(buffer.getvalue()))
        self._pending = {}


class LabelCache:
    """What a labeler read from texts, as JSON values by content key. Use as a context manager, or call :meth:`flush` at the end."""

    def __init__(self, root: str | Path, identity: str, described: Any = None) -> None:
        """Open (or begin) the cache; arguments as of :class:`FeatureCache`."""
        self._shards = _Shards(root, identity, described)
        self._shards.suffix = ".json"
        self._shards._seen.add("identity.json")
        self._known: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}
        for path in self._shards.unseen():
            self._known.update(json.loads(path.read_bytes()))

    def __enter__(self) -> LabelCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def get(self, text: str) -> Any:
        """What is known of a text, or None."""
        return self._known.get(content_key(text).hex())

    def put(self, text: str, value: Any) -> None:
        """Keep what was read from a text."""
        key = content_key(text).hex()
        self._known[key] = self._pending[key] = value
        if len(self._pending) >= 4 * ROWS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if self._pending:
            self._shards.add(json.dumps(self._pending, sort_keys=True).encode())
            self._pending = {}
