"""Ranks that write one folder together: a refusal on one is a refusal on all, and none waits for another that has stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medcodi.distributed import Ranks
from medcodi.errors import DataError, MedCoDiError
from medcodi.storage import disk
from medcodi.training.caching import files


class Agreement:
    """Lets ranks do things together."""

    def __init__(self, processes: Ranks) -> None:
        self._processes = processes

    def by_first(self, do: Callable[[], Any]) -> Any:
        """What ``do`` gives on the first rank (picklable, small), on every rank."""
        result, refusal = _attempt(do) if self._processes.is_first else (None, None)
        result, refusal = self._processes.broadcast((result, refusal))
        if refusal is not None:
            raise DataError(refusal[0], expected=refusal[1], fix=refusal[2])
        return result

    def by_each(self, do: Callable[[], Any]) -> None:
        """Let every rank do its part."""
        refusals = self._processes.gather(_attempt(do)[1])
        found = [(rank, refusal) for rank, refusal in enumerate(refusals) if refusal is not None]
        if found:
            rank, (failed, expected, fix) = found[0]
            whose = f"rank {rank}: " if len(refusals) > 1 else ""
            raise DataError(f"{whose}{failed}", expected=expected, fix=fix)

    @contextmanager
    def holding(self, folder: Path) -> Iterator[None]:
        """Hold a cache folder on the first rank, made if need be; taken away again if nothing was written into it."""
        held: list[Any] = []
        self.by_first(lambda: held.append(_lock(folder)))
        try:
            yield
        finally:
            for lock in held:
                Path(lock.name).unlink(missing_ok=True)
                lock.close()
                with suppress(OSError):
                    folder.rmdir()  # does nothing unless it is empty


def _attempt(do: Callable[[], Any]) -> tuple[Any, tuple[str, str, str] | None]:
    try:
        return do(), None
    except MedCoDiError as error:
        return None, (error.failed, error.expected, error.fix)


def _lock(folder: Path) -> Any:
    """Take the folder for this run alone."""
    files.read_info(folder)  # refuses folders that hold something else
    try:
        with files.writing(folder):
            return disk.lock(folder / files.LOCK)
    except disk.HeldError as error:
        raise DataError(
            f"{folder} is being made by another process" + (f": {error}" if str(error) else ""),
            fix="wait for it, or name another cache folder",
        ) from None
