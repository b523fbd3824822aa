"""Several processes at work for one preparation: what they make comes back, what they refuse is said; none outlives its parent."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from medcodi.data.shards import Shard, WrittenShard, write_shard
from medcodi.data.staging import Interrupted
from medcodi.errors import DataError, MedCoDiError

if TYPE_CHECKING:
    from medcodi.data.prepare import PrepareConfig

Item = TypeVar("Item")
Result = TypeVar("Result")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEPT = -1, -3, 1 << 28  # malloc.h; bytes
CHUNK = 32  # files whose headers one process reads before it says so


class _Refusal(NamedTuple):
    """An error of ours on its way between processes: its classes ask for more than pickle gives them back."""

    failed: str
    expected: str
    fix: str


class Workers:
    """Processes that start when there is work for them and stay until the end; with one, the caller works itself.

    Attributes:
        num: How many.
    """

    def __init__(self, num: int, source: str) -> None:
        """Start nothing yet.

        Args:
            num: Ranks.
            source: What is prepared, for errors.
        """
        self.num, self._source = num, source
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``function`` of each item, in their order; of an endless stream, only so many are under way.

        Args:
            function: Of a module, so that a process can be told of it.
            items: Small, for they travel.

        Raises:
            DataError: What ``function`` refused.
            Interrupted: If a process is killed.
        """
        if self.num <= 1:
            yield from map(function, items)
            return
        rest = iter(items)
        running: deque[Future[Any]] = deque()
        with self._watched():
            while True:
                while len(running) < 4 * self.num and (chunk := list(islice(rest, CHUNK))):
                    running.append(self._submit(_each, function, chunk))
                if not running:
                    return
                yield from _accepted(running.popleft().result())

    def written_shards(
        self, shards: Sequence[Shard], folder: Path, config: PrepareConfig
    ) -> Iterator[tuple[Shard, WrittenShard]]:
        """Write shards into ``folder``, in whatever order they are finished.

        Raises:
            DataError: If a shard cannot be written as it is.
            Interrupted: If the disk is full or a process is killed.
        """
        try:
            if min(self.num, len(shards)) <= 1:
                for shard in shards:
                    yield shard, write_shard(shard, folder, config.image_size, config.file_format)
            else:
                with self._watched():
                    yield from self._written(shards, folder, config)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Interrupted(
                f"the disk of {folder.parent.parent} is full ({error.strerror})",
                expected="room for the dataset",
                fix="make room and run it again, it goes on where it was",
            ) from None

    def _written(
        self, shards: Sequence[Shard], folder: Path, config: PrepareConfig
    ) -> Iterator[tuple[Shard, WrittenShard]]:
        rest = iter(shards)
        running: dict[Future[Any], Shard] = {}
        while True:
            while len(running) < 2 * self.num and (shard := next(rest, None)) is not None:
                running[self._submit(_work, shard, folder, config.image_size, config.file_format)] = shard
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), _accepted(done.result())

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # this process may hold threads: a fork of it may hang
            self._pool = ProcessPoolExecutor(self.num, mp_context=context, initializer=_begin)
        return self._pool.submit(function, *arguments)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool:
            raise Interrupted(
                f"a worker of {self.num} was killed while it prepared {self._source}",
                expected="memory for so many (and, in a script of your own, the call below if __name__ == '__main__')",
                fix=f"run it again, it goes on where it was; num_workers={max(1, self.num // 2)} needs less memory",
            ) from None


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result] | _Refusal:
    return _refusals_told(lambda: [function(item) for item in items])


def _work(shard: Shard, folder: Path, image_size: int, file_format: str) -> WrittenShard | _Refusal:
    return _refusals_told(lambda: write_shard(shard, folder, image_size, file_format))


def _refusals_told(work: Callable[[], Result]) -> Result | _Refusal:
    try:
        return work()
    except MedCoDiError as error:
        return _Refusal(error.failed, error.expected, error.fix)


def _accepted(result: Any) -> Any:
    if isinstance(result, _Refusal):
        raise DataError(result.failed, expected=result.expected, fix=result.fix)
    return result


def _begin() -> None:
    _keep_memory()
    _die_with_parent()


def _keep_memory() -> None:
    """Keep what an image took for the next one, where glibc is the allocator.

    Given back after every image and zeroed by the kernel for the next, it cost two workers a quarter of their time.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def _die_with_parent() -> None:
    """End this process when the one that started it is gone, even if it was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
