"""The processes of one preparation: they read and write, send results and refusals back, and none outlives its parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medcodi.data.preparation.shards import Interrupted, Shard, WrittenShard, write_shard

if TYPE_CHECKING:
    from medcodi.data.preparation.prepare import PrepareConfig

Item = TypeVar("Item")
Result = TypeVar("Result")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _RETAINED = -1, -3, 1 << 28  # malloc.h; bytes
CHUNK = 32  # items that travel to a process and back together


class Workers:
    """Processes that start with the first work and stay until the end; with one, the caller works itself."""

    def __init__(self, num: int, source: str) -> None:
        self.num, self._source = num, source  # the source is named in errors
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``function`` (of a module, so that it can be pickled) of each item, in order; the stream may be endless.

        Raises:
            DataError: Raised by ``function``.
            Interrupted: If a process is killed.
        """
        if self.num <= 1:
            yield from map(function, items)
            return
        rest = iter(items)
        running: deque[Future[Any]] = deque()
        with self._watched():
            while True:
                # Keep four chunks a process under way; results come back in order.
                while len(running) < 4 * self.num and (chunk := list(islice(rest, CHUNK))):
                    running.append(self._submit(_each, function, chunk))
                if not running:
                    return
                yield from running.popleft().result()

    def written_shards(
        self, shards: Sequence[Shard], folder: Path, config: PrepareConfig
    ) -> Iterator[tuple[Shard, WrittenShard]]:
        """Write shards into ``folder``, in the order in which they are finished.

        Raises:
            DataError: If a study of a shard is refused.
            Interrupted: If the disk is full or a process is killed.
        """
        if min(self.num, len(shards)) <= 1:
            for shard in shards:
                yield shard, write_shard(shard, folder, config.image_size, config.file_format)
            return
        rest = iter(shards)
        running: dict[Future[Any], Shard] = {}
        with self._watched():
            while True:
                # Keep two shards a process under way.
                while len(running) < 2 * self.num and (shard := next(rest, None)) is not None:
                    running[self._submit(write_shard, shard, folder, config.image_size, config.file_format)] = shard
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done.result()

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
            self._pool = ProcessPoolExecutor(self.num, mp_context=context, initializer=_begin)
        return self._pool.submit(function, *arguments)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool:
            raise Interrupted(
                f"a worker of {self.num} was killed while it prepared {self._source}",
                expected="enough memory (and, in a script of your own, the call below if __name__ == '__main__')",
                fix=f"run it again, it resumes; num_workers={max(1, self.num // 2)} needs less memory",
            ) from None


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches every process: the caller alone says what it means
    _keep_memory()
    _die_with_parent()


def _keep_memory() -> None:
    """Reuse the memory of one image for the next, where glibc is the allocator.

    Returned after every image and zeroed by the kernel for the next, it cost two workers a quarter of their time.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _RETAINED)
        libc.mallopt(_M_TRIM_THRESHOLD, _RETAINED)


def _die_with_parent() -> None:
    """End this process when the one that started it is gone, even if it was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
