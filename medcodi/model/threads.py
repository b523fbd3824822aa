"""Threads: models are loaded by one thread at a time, and each model runs in one thread at a time; the others wait."""

from __future__ import annotations

from threading import RLock
from typing import Any

# Held while a model is built or its components are loaded: meanwhile nn.Module is patched for all threads of the process.
# Taken after a ModelLock or alone, never before one.
LOADING = RLock()


class ModelLock:
    """The lock of one model: a thread that runs the model holds it, and may take it again. A copy of it is a new lock."""

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:  # for copy.deepcopy and pickle
        return ModelLock, ()
