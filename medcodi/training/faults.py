"""Signs of life: every rank knows which of the others died or stopped, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from types import TracebackType
from typing import Any

import torch.distributed as dist

from medcodi.distributed import Ranks
from medcodi.errors import MedCoDiError, TrainingError
from medcodi.training.config import FaultConfig

MISSED = 3  # beats, after which a rank is dead if an exchange with it has failed as well
GRACE_S = 10.0  # for the run to end in order, before the process is ended
WRITER_S = 60.0  # for a checkpoint that is being written, before the process is ended
AGAIN = 3  # exit code of a run that may do better when it is started again
BREAK_IN = signal.SIGUSR2  # not SIGINT, which is ignored in what a script started in the background
_RUNS = count()  # of this process: all ranks count alike, and each run has keys of its own
_LOOK = "look at that rank's log (out of memory? a node lost?), and go on with --resume latest"


@dataclass
class Sign:
    """What another rank has told of itself, and when that was new.

    Attributes:
        beat: Counts up while it lives.
        doing: In words.
        left: Why it stopped; empty: it has finished; None: it has not left.
        blames: The rank that it stopped for, if any.
        code: Its exit code: 2 for a refusal, which starting again does not fix.
        seen: Time of this machine's clock, in seconds, at which ``beat`` was new.
    """

    beat: int = -1
    doing: str = "starting"
    left: str | None = None
    blames: int | None = None
    code: int = AGAIN
    seen: float = field(default_factory=time.monotonic)


class Watch:
    """A thread that tells the others that this rank lives, listens for theirs, and ends a run that cannot go on."""

    def __init__(self, ranks: Ranks, options: FaultConfig, environment: Mapping[str, str] = os.environ) -> None:
        self._ranks, self._options, self._environment = ranks, options, environment
        self._interval = min(2.0, options.rank_s / 10, options.data_s / 4)
        self._signs = {rank: Sign() for rank in range(ranks.world_size) if rank != ranks.rank}
        self._own = Sign()
        self._limit: tuple[float, Callable[[], str]] | None = None  # until when, and who is late then
        self._store: Any = None
        self._store_lost: float | None = None
        self._verdict: TrainingError | None = None
        self._over, self._ended = threading.Event(), threading.Event()
        self._lock = threading.Lock()  # between the end of the run and the verdict on it
        self._last_resort: threading.Timer | None = None
        self._runner = threading.current_thread()
        self._handled: Any = None  # what the signal did before, where it is ours for a while
        self.before_exit: Callable[[float], None] = lambda seconds: None

    def __enter__(self) -> Watch:
        self._store = self._connected()
        self._tell()
        self._ranks.barrier()  # now every rank has told something, and listening never waits
        if self._runner is threading.main_thread():
            self._handled = signal.signal(BREAK_IN, signal.default_int_handler)
        self._thread = threading.Thread(target=self._listen, name="signs of life", daemon=True)
        self._thread.start()
        return self

    def _connected(self) -> Any:
        """A connection of our own to the store by which the ranks found each other; None when there are no others."""
        if not self._signs:
            return None
        environment = self._environment
        if "MASTER_ADDR" not in environment:  # brought together by other means than a launcher's
            self._signs.clear()
            return None
        store = dist.TCPStore(
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(10.0, self._options.rank_s)),
        )
        return dist.PrefixStore(f"medcodi/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_RUNS)}", store)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit = None
        try:
            with self._lock:
                self._ended.set()
            told = self._explained(error)
        except KeyboardInterrupt:
            self._ended.set()  # it may have come before that was done: the listener would wait, and then end the process
            if self._verdict is None:
                raise
            told = self._verdict
        if told is not None and self._signs:  # leaving the others must not take for ever either
            self._last_resort = threading.Timer(GRACE_S + WRITER_S, os._exit, (_code(told),))
            self._last_resort.daemon = True
            self._last_resort.start()
        if told is None:
            self._own.left = ""
        else:
            self._leave_for(told)
        self._tell()
        self._over.set()
        self._thread.join(GRACE_S)  # within the store when the interpreter ends, it would abort the process
        if self._handled is not None:
            signal.signal(BREAK_IN, self._handled)
        if told is not None and told is not error:
            raise told from error

    def _leave_for(self, told: BaseException) -> None:
        self._own.left, self._own.code = _in_short(told), _code(told)
        self._own.blames = getattr(told, "blames", None)

    def linger(self) -> None:
        """Let the others read why this rank stopped; call it after the process groups are down.

        The store may live in this process, and is gone with it.
        """
        if self._own.left and self._store is not None and self._own.blames is None:
            time.sleep((MISSED + 1) * self._interval)
        if self._last_resort is not None:
            self._last_resort.cancel()

    # ---- what this rank tells ------------------------------------------------------------------------------------
    def at(self, doing: str, limit_s: float | None = None, late: Callable[[], str] = str) -> None:
        """Say what this rank does now.

        Args:
            doing: In words, for the others.
            limit_s: Seconds after which the run is ended, unless something else is said before; None: no limit.
            late: Gives what to say then: who has not delivered what.
        """
        self._own.doing = doing
        self._limit = None if limit_s is None else (time.monotonic() + limit_s, late)

    def _tell(self) -> None:
        if self._store is None:
            return
        own = self._own
        own.beat += 1
        values = {"beat": own.beat, "doing": own.doing, "left": own.left, "blames": own.blames, "code": own.code}
        try:
            self._store.set(str(self._ranks.rank), json.dumps(values))
            self._store_lost = None
        except RuntimeError:  # torch's errors of the network are of this class
            self._store_lost = self._store_lost or time.monotonic()

    # ---- what it hears -------------------------------------------------------------------------------------------
    def _listen(self) -> None:
        while not self._over.wait(self._interval):
            self._tell()
            self._hear()
            verdict = self._late() or self._silent(self._options.rank_s) or self._stopped()
            if verdict is not None and not self._ended.is_set():
                self._end(verdict)
                return

    def _hear(self) -> None:
        if self._store is None:
            return
        try:
            values = self._store.multi_get([str(rank) for rank in self._signs])
        except RuntimeError:
            self._store_lost = self._store_lost or time.monotonic()
            return
        for sign, value in zip(self._signs.values(), values, strict=True):
            told = json.loads(value)
            if told["beat"] != sign.beat:
                sign.beat, sign.seen = told["beat"], time.monotonic()
                sign.doing, sign.left = told["doing"], told["left"]
                sign.blames, sign.code = told["blames"], told["code"]

    def _late(self) -> TrainingError | None:
        limit = self._limit
        if limit is None or time.monotonic() < limit[0]:
            return None
        return _passing(
            TrainingError(
                limit[1](),
                expected=f"it within faults.data_s = {self._options.data_s:g} s",
                fix="look at the disk or network of the data, or raise faults.data_s; go on with --resume latest",
            )
        )

    def _silent(self, seconds: float) -> TrainingError | None:
        """Who has given no sign of life for so long."""
        now = time.monotonic()
        if self._store_lost is not None:
            if now - self._store_lost < seconds:
                return None
            launched = self._environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            who = "the launcher that started rank 0 died" if launched else "rank 0 died"
            return _blaming(0, f"{who}: the store by which the ranks know of each other has gone with it")
        for rank, sign in self._signs.items():
            if sign.left is None and now - sign.seen >= seconds:
                return _blaming(
                    rank, f"rank {rank} died: no sign of life for {now - sign.seen:.0f} s, the last while {sign.doing}"
                )
        return None

    def _stopped(self) -> TrainingError | None:
        """Who has stopped of itself, and said why; the one that began it, if several have."""
        left = {rank: sign for rank, sign in self._signs.items() if sign.left}
        for rank, sign in sorted(left.items(), key=lambda item: item[1].blames is not None):
            if sign.blames is None:
                return _blaming(rank, f"rank {rank} stopped while {sign.doing}: {sign.left}", sign.code)
            if sign.blames != self._ranks.rank:
                return _blaming(sign.blames, f"rank {rank} says: {sign.left}", sign.code)
        return None

    # ---- the end -------------------------------------------------------------------------------------------------
    def _end(self, verdict: TrainingError) -> None:
        """Break into whatever the run waits for; end the process if it does not come out of it."""
        with self._lock:
            if self._ended.is_set():
                return
            self._verdict = verdict
            if self._handled is not None and self._runner.ident is not None:
                signal.pthread_kill(self._runner.ident, BREAK_IN)
        if self._ended.wait(GRACE_S):
            return
        self._leave_for(verdict)
        self._tell()
        print(f"{type(verdict).__name__}: {verdict}", file=sys.stderr, flush=True)
        with suppress(Exception):
            self.before_exit(WRITER_S)
        sys.stdout.flush()
        os._exit(_code(verdict))

    def _explained(self, error: BaseException | None) -> BaseException | None:
        """The error that tells why the run ended: an exchange that failed says nothing of who made it fail."""
        if self._verdict is not None and not isinstance(error, KeyboardInterrupt):
            time.sleep(0.5)  # the signal that broke into the run is on its way still
        if self._verdict is not None or error is None:
            return self._verdict
        if isinstance(error, MedCoDiError) or not isinstance(error, RuntimeError) or not self._signs:
            return error
        deadline = time.monotonic() + (MISSED + 1) * self._interval
        while time.monotonic() < deadline:
            found = self._verdict or self._stopped() or self._silent(MISSED * self._interval)
            if found is not None:
                return found
            time.sleep(self._interval / 10)
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            others = "; ".join(f"rank {rank} is {sign.doing}" for rank, sign in list(self._signs.items())[:8])
            return _passing(
                TrainingError(
                    f"an exchange between ranks did not end within faults.exchange_minutes = {self._options.exchange_minutes:g}: "
                    f"this rank {self._ranks.rank} is {self._own.doing}; {others}",
                    expected="every rank at the same place",
                    fix="look at the rank that is elsewhere, and go on with --resume latest",
                )
            )
        return error


def _passing(error: TrainingError) -> TrainingError:
    error.exit_code = AGAIN
    return error


def _code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, MedCoDiError) else AGAIN


def _blaming(rank: int, failed: str, code: int = AGAIN) -> TrainingError:
    error = TrainingError(failed, expected="every rank to live until the end", fix=_LOOK)
    error.blames = rank  # type: ignore[attr-defined]
    error.exit_code = code
    return error


def _in_short(error: BaseException) -> str:
    text = error.failed if isinstance(error, MedCoDiError) else str(error)
    return f"{type(error).__name__}: {text}"[:2000]
