"""The queue: several people, one worker thread, a bounded number of waiting jobs, progress and cancellation."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from medcodi.errors import MedCoDiError

LOG = logging.getLogger("medcodi.web")
OnStep = Callable[[int, int], None]  # called with (steps done, steps in all)
Work = Callable[[OnStep], Any]
State = Literal["waiting", "running", "done", "failed", "cancelled"]

# Folders before the name of a file; "10^9/L", "n/a" and addresses are none.
_FOLDERS = re.compile(r"(?<![\w:/.^])/(?:[^\s/'\"]+/)+")


class BusyError(MedCoDiError):
    """A job that the queue does not take now."""

    exit_code = 3


class Cancelled(Exception):  # noqa: N818 -- no failure: it ends a job that its owner no longer wants
    """Raised in the worker at the next step of a job that was cancelled."""


def public_message(error: BaseException) -> str:
    """An error as a person at the page is shown it: a refusal without folders of this machine, or that the log has it."""
    if isinstance(error, MedCoDiError):
        return _FOLDERS.sub("", str(error))
    LOG.error("a request failed", exc_info=error)
    return "This failed on the server, whose log says why. Fix: try again, or ask the person who runs it."


@dataclass(eq=False)
class Job:
    """One request: its state, its progress, and its result or the message of its refusal."""

    owner: str  # session that asked
    work: Work | None  # None once it has ended
    state: State = "waiting"
    done: int = 0  # steps
    total: int = 0  # 0: no step yet
    result: Any = None
    message: str = ""
    seconds: float = 0.0  # from start to end, without waiting
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "cancelled")

    def on_step(self, done: int, total: int) -> None:
        """Note the progress; ends the work by :class:`Cancelled` where the owner no longer wants it."""
        self.done, self.total = done, total
        if self._cancelled.is_set():
            raise Cancelled

    def run(self) -> None:
        """Do the work in this thread; whatever it raises becomes the job's message."""
        start = time.perf_counter()
        assert self.work is not None
        try:
            result = self.work(self.on_step)
            self.result, self.state = (None, "cancelled") if self._cancelled.is_set() else (result, "done")
        except Cancelled:
            self.state = "cancelled"
        except Exception as error:  # a request may fail in any library; the service lives on
            if self._cancelled.is_set():  # its owner has left, and the owner's folder with it
                self.state = "cancelled"
            else:
                self.message, self.state = public_message(error), "failed"
        finally:
            self.work, self.seconds = None, time.perf_counter() - start


class JobQueue:
    """Jobs in the order in which they came, run one at a time in one thread: the model belongs to it."""

    def __init__(self, *, max_waiting: int, max_per_owner: int = 1) -> None:
        """Start the worker.

        Args:
            max_waiting: Jobs that may wait; further ones are refused.
            max_per_owner: Jobs of one owner that may wait or run.
        """
        self.max_waiting, self.max_per_owner = max_waiting, max_per_owner
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._run, name="medcodi-worker", daemon=True)
        self._worker.start()

    def submit(self, owner: str, work: Work) -> Job:
        """Take a job.

        Raises:
            BusyError: If the queue is full, or the owner has a job in it already.
        """
        with self._changed:
            if sum(job.owner == owner for job in self._jobs()) >= self.max_per_owner:
                raise BusyError("your last request is not finished", fix="wait for it, or cancel it")
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(
                    f"{len(self._waiting)} requests are waiting, which is all that the queue takes",
                    expected="a free place",
                    fix="try again in a minute",
                )
            job = Job(owner, work)
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def place(self, job: Job) -> int:
        """How many jobs come before this one, the running one included; 0: it runs, or has ended."""
        with self._changed:
            return self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """Drop a waiting job, or end a running one at its next step."""
        with self._changed:
            job._cancelled.set()
            if job in self._waiting:
                self._waiting.remove(job)
                job.state, job.work = "cancelled", None

    def cancel_of(self, owner: str) -> None:
        """Cancel everything of an owner who has left."""
        with self._changed:
            jobs = [job for job in self._jobs() if job.owner == owner]
        for job in jobs:
            self.cancel(job)

    def close(self) -> None:
        """Cancel everything, and wait for the worker: a thread that is inside a library when Python ends would abort the process."""
        with self._changed:
            jobs, self._closed = self._jobs(), True
            self._changed.notify_all()
        for job in jobs:
            self.cancel(job)
        self._worker.join()

    def _jobs(self) -> list[Job]:
        return [*([self._running] if self._running else []), *self._waiting]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
                job.state = "running"
            job.run()
