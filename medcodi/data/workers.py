"""Shards written by several processes at once, handed back as they are finished; none outlives its parent."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from medcodi.data.shards import Shard, WrittenShard, write_shard
from medcodi.data.staging import Interrupted
from medcodi.errors import DataError, MedCoDiError

if TYPE_CHECKING:
    from medcodi.data.prepare import PrepareConfig

_Refusal = tuple[str, str, str]  # failed, expected, mend


def written_shards(
    shards: Sequence[Shard], folder: Path, config: PrepareConfig
) -> Iterator[tuple[Shard, WrittenShard]]:
    """Write shards into ``folder``, in whatever order they are finished.

    Raises:
        Interrupted: If the disk is full or a worker is killed.
    """
    num_workers = min(config.num_workers, len(shards))
    try:
        if num_workers <= 1:
            for shard in shards:
                yield shard, write_shard(shard, folder, config.image_size, config.file_format)
        else:
            yield from _parallel(shards, folder, config, num_workers)
    except BrokenProcessPool:
        raise Interrupted(
            f"a worker of {num_workers} was killed while it prepared {config.source}",
            expected="memory for so many (and, in a script of your own, the call below if __name__ == '__main__')",
            mend=f"run it again, it goes on where it was; num_workers={max(1, num_workers // 2)} needs less memory",
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Interrupted(
            f"the disk of {folder.parent.parent} is full ({error.strerror})",
            expected="room for the dataset",
            mend="make room and run it again, it goes on where it was",
        ) from None


def _parallel(
    shards: Sequence[Shard], folder: Path, config: PrepareConfig, num_workers: int
) -> Iterator[tuple[Shard, WrittenShard]]:
    rest = iter(shards)
    context = multiprocessing.get_context("spawn")  # this process may hold threads: a fork of it may hang
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_die_with_parent)
    try:
        running: dict[Future[WrittenShard | _Refusal], Shard] = {}
        while True:
            while len(running) < 2 * num_workers and (shard := next(rest, None)) is not None:
                running[pool.submit(_work, shard, folder, config.image_size, config.file_format)] = shard
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                shard, result = running.pop(done), done.result()
                if isinstance(result, tuple):
                    raise DataError(result[0], expected=result[1], mend=result[2])
                yield shard, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _work(shard: Shard, folder: Path, image_size: int, file_format: str) -> WrittenShard | _Refusal:
    try:
        return write_shard(shard, folder, image_size, file_format)
    except MedCoDiError as error:  # its classes ask for more than pickle gives them back
        return error.failed, error.expected, error.mend


def _die_with_parent() -> None:
    """End this worker when the process that started it is gone, even if it was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
