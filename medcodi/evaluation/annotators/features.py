"""Features of many images or texts: read, prepared and looked up ahead of the network, kept by content, in memory that does not grow."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.data.images import read_image
from medcodi.errors import DataError
from medcodi.evaluation.annotators.extractors import Extractor, Value, eight_bit_pixels
from medcodi.evaluation.annotators.feature_cache import FeatureCache, content_key
from medcodi.metrics.frechet import Moments

Source = np.ndarray | str | Path  # an image, a text, or the file of an image

_MOMENT_ROWS = 1024  # vectors between two merges of moments


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How features are extracted.

    Attributes:
        batch_size: Samples that the network sees at once.
        num_threads: That read and prepare ahead of it; None: as many as there are cores, up to 8.
        prefetch: Batches that may be ready ahead.
    """

    batch_size: int = 32
    num_threads: int | None = None
    prefetch: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_size", "prefetch"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}", expected="at least 1")

    @property
    def threads(self) -> int:
        """How many threads."""
        return self.num_threads or min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class _Ready:
    """One sample, ready for the network; without ``prepared`` where its features are known."""

    key: bytes
    known: np.ndarray | None
    prepared: Any = None


def read_source(source: Source) -> Value:
    """An image as uint8 ``[H, W]``, read from its file if it is named by one; a text as it is.

    Raises:
        DataError: If the file cannot be read; no image stands in for it.
    """
    if isinstance(source, Path):
        return eight_bit_pixels(read_image(source))
    return source if isinstance(source, str) else eight_bit_pixels(source)


def feature_blocks(
    extractor: Extractor,
    sources: Iterable[Source],
    modality: str,
    *,
    cache: FeatureCache | None = None,
    options: Extraction | None = None,
) -> Iterator[np.ndarray]:
    """Features in the order of ``sources``, block by block: float32 ``[B, D]`` each.

    Threads read files, hash and prepare ahead while the network runs; no more than ``prefetch + 1`` batches are held.

    Args:
        extractor: Whose features.
        sources: Arrays, files of images, or texts: anything that can be iterated once.
        modality: Of all of them.
        cache: Where features of known content are taken from and new ones are kept.
        options: Batch size and threads.

    Raises:
        DataError: If a source cannot be read, or a feature is not finite.
    """
    options = options or Extraction()

    def ready(source: Source) -> _Ready:
        value = read_source(source)
        key = content_key(value)
        known = cache.get(key) if cache is not None else None
        return _Ready(key, known, None if known is not None else extractor.prepare(value))

    with ThreadPoolExecutor(options.threads, thread_name_prefix="extract") as pool:
        waiting: deque[Future[_Ready]] = deque()
        remaining = iter(sources)
        try:
            while True:
                room = options.batch_size * (options.prefetch + 1) - len(waiting)
                waiting.extend(pool.submit(ready, source) for source in islice(remaining, room))
                if not waiting:
                    break
                batch = [waiting.popleft().result() for _ in range(min(options.batch_size, len(waiting)))]
                waiting.extend(pool.submit(ready, source) for source in islice(remaining, len(batch)))
                yield _embedded(extractor, batch, modality, cache)
        finally:
            for future in waiting:
                future.cancel()
    if cache is not None:
        cache.flush()


def _embedded(extractor: Extractor, batch: Sequence[_Ready], modality: str, cache: FeatureCache | None) -> np.ndarray:
    features = np.empty((len(batch), extractor.dim), np.float32)
    fresh = {one.key: row for row, one in reversed(list(enumerate(batch))) if one.known is None}  # each content once
    rows = sorted(fresh.values())
    made = extractor.embed([batch[row].prepared for row in rows], modality)
    if cache is not None:
        cache.misses += len(rows)
        cache.hits += len(batch) - len(rows)
        cache.put([batch[row].key for row in rows], made)
    by_key = {batch[row].key: made[place] for place, row in enumerate(rows)}
    for row, one in enumerate(batch):
        features[row] = by_key[one.key] if one.known is None else one.known
    return features


def extract(
    extractor: Extractor,
    sources: Iterable[Source],
    modality: str,
    *,
    cache: FeatureCache | None = None,
    options: Extraction | None = None,
) -> np.ndarray:
    """All features at once, for metrics that need them (kernel distance, precision and recall): float32 ``[N, D]``.

    Arguments and refusals as of :func:`feature_blocks`.
    """
    blocks = list(feature_blocks(extractor, sources, modality, cache=cache, options=options))
    return np.concatenate(blocks) if blocks else np.zeros((0, extractor.dim), np.float32)


class MomentsAccumulator:
    """Moments of a stream of features, in float64; memory does not grow with their number."""

    def __init__(self, dim: int) -> None:
        self._moments = Moments.empty(dim)
        self._blocks: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        """Take in ``[B, D]``."""
        self._blocks.append(np.asarray(features))
        if sum(map(len, self._blocks)) >= _MOMENT_ROWS:
            self._merge()

    def _merge(self) -> None:
        if self._blocks:
            self._moments = self._moments.merge(Moments.of(np.concatenate(self._blocks)))
            self._blocks = []

    def result(self) -> Moments:
        """Moments of everything so far."""
        self._merge()
        return self._moments


def stream_moments(
    extractor: Extractor,
    sources: Iterable[Source],
    modality: str,
    *,
    cache: FeatureCache | None = None,
    options: Extraction | None = None,
    on_samples: Callable[[int], None] = lambda done: None,
) -> Moments:
    """Moments of the features of a stream; arguments and refusals as of :func:`feature_blocks`.

    Returns:
        What :func:`medcodi.metrics.frechet.frechet_distance` takes; those of several parts are put together by ``Moments.merge``.
    """
    accumulator = MomentsAccumulator(extractor.dim)
    for block in feature_blocks(extractor, sources, modality, cache=cache, options=options):
        accumulator.add(block)
        on_samples(len(block))
    return accumulator.result()


def open_cache(root: str | Path, extractor: Extractor, modality: str) -> FeatureCache:
    """The cache of an extractor's features of one modality under ``root``."""
    return FeatureCache(
        root, extractor.identity(modality), extractor.dim, extractor.describe() | {"modality": modality}
    )
