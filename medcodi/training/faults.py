"""The watchdog of a run: ranks send heartbeats; data that arrive late and ranks that die or stop end the run on all."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import torch.distributed as dist

from medcodi.data.batches import GlobalBatches, StepBatches, missing
from medcodi.distributed import Ranks
from medcodi.errors import MedCoDiError, TrainingError
from medcodi.training.config import FaultConfig

MISSED_BEATS = 3  # after which a rank is dead if an exchange with it has failed as well
GRACE_S = 10.0  # for the run to end in order, before the process is ended
WRITER_S = 60.0  # for a checkpoint that is being written, before the process is ended
RETRY = 3  # exit code of a run that may succeed when it is started again
BREAK_IN = signal.SIGUSR2  # not SIGINT, which is ignored in what a script started in the background
_RUNS = count()  # of this process: all ranks count alike, so that each run has its own keys in the store


@dataclass
class Heartbeat:
    """Last report of another rank, and its time."""

    beat: int = -1  # counts up while the rank lives
    activity: str = "starting"
    left: str | None = None  # why it stopped; empty: it has finished; None: it runs
    blames: int | None = None  # the rank because of which it stopped
    code: int = RETRY  # its exit code: 2 for a refusal, which a restart does not fix
    advice: tuple[str, str] | None = None  # what its refusal expected, and the fix; None: it did not stop by a refusal
    seen: float = field(default_factory=time.monotonic)  # time of this machine's clock at which beat was new


_SENT = ("beat", "activity", "left", "blames", "code", "advice")  # what ranks send of their Heartbeat


class Watchdog:
    """A thread that sends this rank's heartbeat, reads those of the others, and ends a run that cannot continue.

    Heartbeats are stored in the key-value store by which the ranks found each other, over a connection of their own.
    """

    def __init__(self, ranks: Ranks, config: FaultConfig) -> None:
        self._ranks, self._config = ranks, config
        self._interval = min(2.0, config.rank_s / 10, config.data_s / 4)
        self._others = {rank: Heartbeat() for rank in range(ranks.world_size) if rank != ranks.rank}
        self._own = Heartbeat()
        self._limit: tuple[float, Callable[[], str]] | None = None  # deadline, and who is late then
        self._store: Any = None
        self._store_lost: float | None = None  # time at which the store did not answer any more
        self._verdict: TrainingError | None = None  # why this thread ended the run
        self._ended = threading.Event()  # the run has ended: no verdict comes after it
        self._over = threading.Event()  # the others know why: the thread may stop
        self._lock = threading.Lock()  # between the end of the run and the verdict on it
        self._last_resort: threading.Timer | None = None  # ends a process that cannot leave the others
        self._runner = threading.current_thread()
        self._previous_handler: Any = None  # of BREAK_IN
        self.before_exit: Callable[[float], None] = lambda seconds: None  # called before the process is ended

    def __enter__(self) -> Watchdog:
        self._store = self._connect()
        self._send()
        self._ranks.barrier()  # from now on every rank has sent something, and reading never waits
        if self._runner is threading.main_thread():
            self._previous_handler = signal.signal(BREAK_IN, signal.default_int_handler)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def _connect(self) -> Any:
        """A connection to the store; None when there are no other ranks."""
        environment = os.environ
        # Ranks that did not come from a launcher have no store.
        if not self._others or "MASTER_ADDR" not in environment:
            self._others.clear()
            return None
        store = dist.TCPStore(
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(10.0, self._config.rank_s)),
        )
        return dist.PrefixStore(f"medcodi/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_RUNS)}", store)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Find the reason: the run's own error, the verdict, or what another rank reports.
        self._limit = None
        try:
            with self._lock:
                self._ended.set()
            reason = self._explain(error)
        except KeyboardInterrupt:
            self._ended.set()  # the signal may come before it was set: the thread would wait, and then end the process
            if self._verdict is None:
                raise
            reason = self._verdict

        # Report it to the others; leaving them must not take for ever either.
        if reason is not None and self._others:
            self._last_resort = threading.Timer(GRACE_S + WRITER_S, os._exit, (_code(reason),))
            self._last_resort.daemon = True
            self._last_resort.start()
        self._leave(reason)
        self._over.set()
        self._thread.join(GRACE_S)  # a thread inside the store when the interpreter ends would abort the process
        if self._previous_handler is not None:
            signal.signal(BREAK_IN, self._previous_handler)
        if reason is not None and reason is not error:
            raise reason from error

    def _leave(self, reason: BaseException | None) -> None:
        if reason is None:
            self._own.left = ""
        else:
            self._own.left, self._own.code = _summary(reason), _code(reason)
            self._own.blames = getattr(reason, "blames", None)
            if isinstance(reason, MedCoDiError):
                self._own.advice = (reason.expected, reason.fix)
        self._send()

    def linger(self) -> None:
        """Let the others read why this rank stopped, because the store may end with it; call after ``ranks.leave``."""
        if self._own.left and self._store is not None and self._own.blames is None:
            time.sleep((MISSED_BEATS + 1) * self._interval)
        if self._last_resort is not None:
            self._last_resort.cancel()

    # ---- what this rank reports ----------------------------------------------------------------------------------
    def report(self, activity: str, limit_s: float | None = None, late: Callable[[], str] = str) -> None:
        """Report what this rank does now.

        Args:
            activity: In words, for the others.
            limit_s: Seconds after which the run is ended, unless something else is reported before.
            late: Returns the message then: who has not delivered what.
        """
        self._own.activity = activity
        self._limit = None if limit_s is None else (time.monotonic() + limit_s, late)

    def batches(self, source: GlobalBatches, start_step: int, stop_step: int) -> Iterator[StepBatches]:
        """A source's batches; who does not deliver them within ``faults.data_s`` is named."""
        limit = self._config.data_s
        limit += min(30.0, limit) if source.num_workers else 0.0  # torch has a limit for workers too, and knows more

        def wait_for(step: int) -> None:
            self.report(f"waiting for the data of step {step + 1}", limit, lambda: missing(source, step))

        wait_for(start_step)
        for step_batches in source.iterate(start_step, stop_step):
            self.report(f"taking step {step_batches.step + 1}")
            yield step_batches
            wait_for(step_batches.step + 1)
        self.report("finishing")

    def _send(self) -> None:
        if self._store is None:
            return
        self._own.beat += 1
        news = {name: getattr(self._own, name) for name in _SENT}
        try:
            self._store.set(str(self._ranks.rank), json.dumps(news))
            self._store_lost = None
        except RuntimeError:  # torch's network errors are of this class
            self._store_lost = self._store_lost or time.monotonic()

    # ---- what the others report ----------------------------------------------------------------------------------
    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self._send()
            self._receive()
            verdict = self._late() or self._silent(self._config.rank_s) or self._stopped()
            if verdict is not None and not self._ended.is_set():
                self._end(verdict)
                return

    def _receive(self) -> None:
        if self._store is None:
            return
        try:
            values = self._store.multi_get([str(rank) for rank in self._others])
        except RuntimeError:
            self._store_lost = self._store_lost or time.monotonic()
            return
        for other, value in zip(self._others.values(), values, strict=True):
            news = json.loads(value)
            if news["beat"] != other.beat:
                other.seen = time.monotonic()
                for name in _SENT:
                    setattr(other, name, news[name])

    def _late(self) -> TrainingError | None:
        """The verdict on data that did not arrive in time."""
        limit = self._limit
        if limit is None or time.monotonic() < limit[0]:
            return None
        return _verdict(
            limit[1](),
            expected=f"it within faults.data_s = {self._config.data_s:g} s",
            fix="look at the disk or network of the data, or raise faults.data_s; resume with --resume latest",
        )

    def _silent(self, seconds: float) -> TrainingError | None:
        """The verdict on a rank that has sent no heartbeat for so long."""
        now = time.monotonic()
        if self._store_lost is not None:
            if now - self._store_lost < seconds:
                return None
            launched = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            who = "the launcher that started rank 0" if launched else "rank 0"
            return _verdict(f"{who} died: the store through which the ranks know of each other went with it", blames=0)
        for rank, other in self._others.items():
            if other.left is None and now - other.seen >= seconds:
                last = f"no sign of life for {now - other.seen:.0f} s, the last while {other.activity}"
                return _verdict(f"rank {rank} died: {last}", blames=rank)
        return None

    def _stopped(self) -> TrainingError | None:
        """The verdict on a rank that stopped by itself; if several have, on the first to stop."""
        left = {rank: other for rank, other in self._others.items() if other.left}
        for rank, other in sorted(left.items(), key=lambda item: item[1].blames is not None):
            if other.blames is None:
                what = f"rank {rank} stopped while {other.activity}: {other.left}"
                return _verdict(what, *_advice(other), blames=rank, code=other.code)
            if other.blames != self._ranks.rank:
                report = f"rank {rank} reports: {other.left}"
                return _verdict(report, *_advice(other), blames=other.blames, code=other.code)
        return None

    # ---- the end -------------------------------------------------------------------------------------------------
    def _end(self, verdict: TrainingError) -> None:
        """Interrupt whatever the run waits for; end the process if the run does not react."""
        with self._lock:
            if self._ended.is_set():
                return
            self._verdict = verdict
            if self._previous_handler is not None and self._runner.ident is not None:
                signal.pthread_kill(self._runner.ident, BREAK_IN)
        if self._ended.wait(GRACE_S):
            return
        self._leave(verdict)
        print(f"{type(verdict).__name__}: {verdict}", file=sys.stderr, flush=True)
        with suppress(Exception):
            self.before_exit(WRITER_S)
        sys.stdout.flush()
        os._exit(_code(verdict))

    def _explain(self, error: BaseException | None) -> BaseException | None:
        """Why the run ended: a failed exchange does not say which rank made it fail, the heartbeats do."""
        if self._verdict is not None and not isinstance(error, KeyboardInterrupt):
            time.sleep(0.5)  # the signal that interrupts the run is still on its way
        if self._verdict is not None or error is None:
            return self._verdict
        if isinstance(error, MedCoDiError) or not isinstance(error, RuntimeError) or not self._others:
            return error
        deadline = time.monotonic() + (MISSED_BEATS + 1) * self._interval
        while time.monotonic() < deadline:
            verdict = self._verdict or self._stopped() or self._silent(MISSED_BEATS * self._interval)
            if verdict is not None:
                return verdict
            time.sleep(self._interval / 10)
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            others = "; ".join(f"rank {rank} is {other.activity}" for rank, other in [*self._others.items()][:8])
            return _verdict(
                f"an exchange between ranks did not end within faults.exchange_minutes = {self._config.exchange_minutes:g}: "
                f"this rank {self._ranks.rank} is {self._own.activity}; {others}",
                expected="every rank at the same place",
                fix="look at the rank that is elsewhere, and resume with --resume latest",
            )
        return error


def _verdict(
    failed: str,
    expected: str = "every rank to live until the end",
    fix: str = "look at that rank's log (out of memory? a node lost?), and resume with --resume latest",
    blames: int | None = None,
    code: int = RETRY,
) -> TrainingError:
    error = TrainingError(failed, expected=expected, fix=fix)
    error.exit_code = code
    if blames is not None:
        error.blames = blames  # type: ignore[attr-defined]
    return error


def _advice(other: Heartbeat) -> tuple[str, str]:
    """Expectation and fix of a rank that stopped: its own words where it was refused."""
    if other.advice is not None:
        return other.advice
    return "every rank to live until the end", "see the error in that rank's log, and resume with --resume latest"


def _code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, MedCoDiError) else RETRY


def _summary(error: BaseException) -> str:
    text = error.failed if isinstance(error, MedCoDiError) else str(error)
    return f"{type(error).__name__}: {text}"[:2000]
