"""Rows of numbers stored by content: what was computed once for an image or a text is not computed again.

A folder per identity (annotator, weights, preprocessing) holds shards. A shard is written once, under the hash of its bytes, and renamed
into place. So any number of processes and ranks can read and write at once, on any file system: no file is ever changed, and a damaged
shard is noticed and ignored.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.errors import DataError
from medcodi.storage import atomic

ROWS_PER_SHARD = 512
_FULL_DISK = atomic.Refusal(error=DataError, then="run it again, or choose another cache folder")


def content_key(value: np.ndarray | str) -> bytes:
    """SHA-256 of an image (type, shape and bytes) or a text: 32 bytes."""
    if isinstance(value, str):
        return hashlib.sha256(b"text\x00" + value.encode("utf-8", "surrogatepass")).digest()
    array = np.ascontiguousarray(value)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.digest()


class RowCache:
    """Float32 rows by content key. Shards are mapped, not read; memory holds 32 bytes of key and a position for each row."""

    def __init__(self, root: str | Path, identity: str, dim: int, description: Any = None) -> None:
        """Open or begin the cache of rows of one identity; an unusable folder is a DataError.

        Args:
            root: Folder of all caches.
            identity: SHA-256 over all that a row depends on besides the content.
            dim: Length of a row.
            description: What ``identity`` stands for; stored beside the shards for people.
        """
        self.dim = dim
        self._type = np.dtype([("key", "S64"), ("features", "<f4", (dim,))])
        self._stored: dict[bytes, tuple[np.ndarray, int]] = {}  # key -> mapped shard, position in it
        self._pending: dict[bytes, np.ndarray] = {}  # not written yet
        self.folder = Path(root).expanduser() / identity[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"the cache {root} cannot be used: {error.strerror}", fix="choose another folder") from None
        if not (self.folder / "identity.json").is_file():
            content = json.dumps({"identity": identity, "of": description}, indent=1, default=str) + "\n"
            atomic.write_text(self.folder / "identity.json", content, **_FULL_DISK)
        # Rows of every run so far.
        for path in sorted(self.folder.glob("*.npy")):
            if self._is_whole(path):
                self._map(path)

    def __len__(self) -> int:
        return len(self._stored) + len(self._pending)

    def _is_whole(self, path: Path) -> bool:
        """Whether a shard's bytes have the hash that its name says."""
        try:
            digest = atomic.sha256_file(path)
        except OSError:
            return False
        if digest[:40] == path.name.removesuffix(".npy"):
            return True
        warnings.warn(f"{path} is damaged; its rows are computed again", stacklevel=4)
        return False

    def _map(self, path: Path) -> None:
        """Make the rows of a shard available."""
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return
        if rows.dtype != self._type:  # of another version, or another length
            return
        for position, key in enumerate(rows["key"]):
            self._stored.setdefault(bytes.fromhex(key.decode()), (rows, position))

    def get(self, key: bytes) -> np.ndarray | None:
        """The row of a content, float32 ``[D]``, or None; may be called in threads."""
        pending = self._pending.get(key)  # before the stored rows: a flush fills those first, and empties this then
        if pending is not None:
            return pending
        stored = self._stored.get(key)
        return None if stored is None else np.array(stored[0][stored[1]]["features"])

    def put(self, keys: Sequence[bytes], rows: Sequence[np.ndarray] | np.ndarray) -> None:
        """Store rows, float32 ``[B, D]``; written to disk in shards."""
        for key, row in zip(keys, np.asarray(rows, np.float32), strict=True):
            if key not in self._stored:
                self._pending[key] = row.copy()
        if len(self._pending) >= ROWS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Write pending rows as one shard."""
        if not self._pending:
            return
        # Sorted by key, so that the same rows give the same bytes, and so the same name.
        rows = np.empty(len(self._pending), self._type)
        for position, (key, row) in enumerate(sorted(self._pending.items())):
            rows[position] = (key.hex().encode(), row)
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        content = buffer.getvalue()
        path = self.folder / (hashlib.sha256(content).hexdigest()[:40] + ".npy")
        # Another process may have written the same shard; a damaged one is replaced.
        if not path.is_file() or not self._is_whole(path):
            atomic.write_bytes(path, content, **_FULL_DISK)
        self._map(path)
        self._pending = {}
