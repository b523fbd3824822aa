"""The base of annotators that annotate in batches and store rows by content.

Every annotator has a ``name``, ``reads(modality)``, ``identity(modality)`` and ``annotate(contents, modality)`` (rows ``[N, D]``); scorers of
reports, which take pairs, have ``annotate`` of two sequences.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.data.image_files import read_image
from medcodi.errors import DataError
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.storage import atomic

AnnotatorInput = np.ndarray | str | Path  # an image [H, W], a text, or the path of an image file
ROWS_PER_SHARD = 512
_FULL_DISK = atomic.Refusal(error=DataError, then="run it again, or choose another cache folder")


@dataclass(frozen=True)
class _Ready:
    """One content, ready for the network; ``prepared`` is set only where its row is not stored yet."""

    key: bytes
    row: np.ndarray | None
    prepared: Any = None


class BatchAnnotator(ABC):
    """An annotator that annotates each distinct content once, batch by batch, and stores float32 rows by content."""

    num_threads = 0  # that read, hash and prepare contents ahead of the network; 0: the caller's thread does
    prefetch = 2  # batches that may be ready ahead

    def __init__(self, name: str, dim: int, request: LoadRequest | None = None, *, batch_size: int = 32) -> None:
        """Name it; ``dim`` is the length of its rows, ``batch_size`` how many contents it annotates at once by default."""
        request = request or LoadRequest()
        self.name, self.dim, self.cache = name, dim, request.cache
        self.batch_size = batch_size if request.batch_size is None else request.batch_size
        if self.batch_size < 1:
            raise DataError(f"batch_size is {self.batch_size}", expected="at least 1")
        self._row_caches: dict[str, RowCache] = {}  # modality -> rows stored in ``cache``

    @abstractmethod
    def reads(self, modality: str) -> bool:
        """Whether it annotates contents of a modality."""

    @abstractmethod
    def identity(self, modality: str) -> str:
        """SHA-256 over all that a row depends on besides the content."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON-ready description in a results bundle: name, hash of the weights, preprocessing."""

    @abstractmethod
    def annotate_batch(self, prepared: Sequence[Any], modality: str) -> np.ndarray:
        """Rows float32 ``[B, D]`` of prepared contents; called in one thread."""

    def prepare(self, value: Any) -> Any:
        """One image (uint8 ``[H, W]``) or text, as :meth:`annotate_batch` takes it; may be called in threads."""
        return value

    def annotate(self, contents: Iterable[AnnotatorInput], modality: str) -> np.ndarray:
        """Rows of contents in their order: float32 ``[N, D]``; see :meth:`blocks`."""
        blocks = list(self.blocks(contents, modality))
        return np.concatenate(blocks) if blocks else np.zeros((0, self.dim), np.float32)

    def blocks(self, contents: Iterable[AnnotatorInput], modality: str) -> Iterator[np.ndarray]:
        """Rows of a stream of contents in its order, batch by batch: float32 ``[B, D]`` each.

        At most ``prefetch + 1`` batches are in memory. Images are ``[H, W]``, uint8 or float in [0, 1]. A DataError says which
        content cannot be read or annotated.
        """
        row_cache = self.row_cache(modality)

        # Read, hash, look up, and prepare only what has to be annotated.
        def make_ready(content: AnnotatorInput) -> _Ready:
            value = read_content(content)
            key = content_key(value)
            row = None if row_cache is None else row_cache.get(key)
            return _Ready(key, row, self.prepare(value) if row is None else None)

        ready = self._ahead(make_ready, contents) if self.num_threads else map(make_ready, contents)
        # Annotate while the threads work ahead.
        while batch := list(islice(ready, self.batch_size)):
            yield self._rows(batch, modality, row_cache)
        if row_cache is not None:
            row_cache.flush()

    def _ahead(self, make_ready: Any, contents: Iterable[AnnotatorInput]) -> Iterator[_Ready]:
        """Like ``map``, in threads, with at most ``prefetch + 1`` batches begun and not yet handed out."""
        remaining = iter(contents)
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="annotate") as pool:
            begun: deque[Future[_Ready]] = deque()
            try:
                window = self.batch_size * (self.prefetch + 1)
                begun.extend(pool.submit(make_ready, content) for content in islice(remaining, window))
                while begun:
                    first = begun.popleft().result()
                    begun.extend(pool.submit(make_ready, content) for content in islice(remaining, 1))
                    yield first
            finally:
                for future in begun:
                    future.cancel()

    def _rows(self, batch: Sequence[_Ready], modality: str, row_cache: RowCache | None) -> np.ndarray:
        """Rows of a batch ``[B, D]``: stored ones as they are, the others annotated, each distinct content once."""
        # Annotate each content without a stored row once, in the order of the batch.
        prepared: dict[bytes, Any] = {}
        for ready in batch:
            if ready.row is None:
                prepared.setdefault(ready.key, ready.prepared)
        new = self.annotate_batch(list(prepared.values()), modality) if prepared else ()
        if row_cache is not None:
            row_cache.put(list(prepared), new)
        # Put stored and new rows back into the order of the batch.
        row_of = dict(zip(prepared, new, strict=True))
        rows = [row_of[ready.key] if ready.row is None else ready.row for ready in batch]
        return np.stack(rows).astype(np.float32, copy=False)

    def row_cache(self, modality: str) -> RowCache | None:
        """The stored rows of a modality; None where nothing is stored."""
        if self.cache is None:
            return None
        if modality not in self._row_caches:
            description = {**self.describe(), "modality": modality}
            self._row_caches[modality] = RowCache(self.cache, self.identity(modality), self.dim, description)
        return self._row_caches[modality]


def read_content(content: AnnotatorInput) -> np.ndarray | str:
    """An image as uint8 ``[H, W]``, read from its file where a path is given; a text as it is. An unreadable file is a DataError."""
    if isinstance(content, str):
        return content
    return eight_bit_pixels(read_image(content) if isinstance(content, Path) else content)


def eight_bit_pixels(image: np.ndarray) -> np.ndarray:
    """An image as an 8-bit file stores it, so that real and generated images are annotated alike.

    ``[H, W]``, uint8 or float in [0, 1] -> uint8 of 256 levels; anything else is a DataError.
    """
    image = np.asarray(image)
    if image.ndim != 2 or not image.size:
        raise DataError(f"an image of shape {image.shape}", expected="[H, W]: one channel")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise DataError(f"an image of {image.dtype}", expected="uint8, or float in [0, 1]", fix="convert it first")
    low, high = float(image.min()), float(image.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
        raise DataError(
            f"an image with values from {low:.4g} to {high:.4g}", expected="finite values in [0, 1]", fix="scale it"
        )
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


# ---- stored rows -----------------------------------------------------------------------------------------------------
def content_key(value: np.ndarray | str) -> bytes:
    """SHA-256 of an image (type, shape and bytes) or a text: 32 bytes."""
    if isinstance(value, str):
        return hashlib.sha256(b"text\x00" + value.encode("utf-8", "surrogatepass")).digest()
    array = np.ascontiguousarray(value)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.digest()


class RowCache:
    """Float32 rows by content key: what was computed once for an image or a text is not computed again.

    A folder per identity (annotator, weights, preprocessing) holds shards. A shard is written once, under the hash of its
    bytes, and renamed into place. So any number of processes and ranks can read and write at once, on any file system: no
    file is ever changed, and a damaged shard is noticed and ignored. Shards are mapped, not read; memory holds 32 bytes of
    key and a position for each row.
    """

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
