"""Why a run stops before its last step: a signal from the scheduler, or its own time limit."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from medcodi.distributed import Ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """While entered, SIGTERM and SIGUSR1 ask for a stop at the end of the step; asked again later, the process ends.

    A launcher passes on what the scheduler has sent to every process already: what comes soon after is the same request.
    """

    TIME_IS_UP = "max_minutes reached"
    SAME_S = 5.0  # seconds

    def __init__(self, max_minutes: float | None) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
        self._signal: int | None = None
        self._noted = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and time.monotonic() - self._noted < self.SAME_S:
            return
        if self._signal is not None:  # asked twice, so do not wait for the step: it may never end
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal, self._noted = number, time.monotonic()

    def reason(self, ranks: Ranks) -> str | None:
        """Why every rank should stop now, or None. Every rank calls this at the end of each step."""
        if ranks.any(self._signal is not None):
            return (
                f"{signal.Signals(self._signal).name} received"
                if self._signal is not None
                else "a rank was told to stop"
            )
        if ranks.any(self._deadline is not None and time.monotonic() > self._deadline):
            return self.TIME_IS_UP
        return None
