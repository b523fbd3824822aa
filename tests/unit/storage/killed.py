"""A function run in a process that is killed, or stopped, at its n-th change to the file system."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}


def _is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    writes = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wxa"
    return writes or event in _CHANGES


def forked(work: Callable[[], Any], at_change: Callable[[int], None] = lambda number: None) -> int:
    """Run ``work`` in a fork that calls ``at_change`` before each of its changes, counted from 1; the fork's process number."""
    child = os.fork()
    if child:
        return child
    number = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number
        if _is_change(event, arguments):
            number += 1
            at_change(number)

    try:
        sys.addaudithook(hook)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child: int) -> int:
    """Wait for a fork: its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sends(number: signal.Signals, moment: int) -> Callable[[int], None]:
    """What sends a signal to its own process before change number ``moment``."""
    return lambda change: os.kill(os.getpid(), number) if change == moment else None


def killed_at(moment: int, work: Callable[[], Any]) -> bool:
    """Run ``work`` in a fork that is killed before its change number ``moment``; False: it ended before that."""
    status = ended(forked(work, sends(signal.SIGKILL, moment)))
    assert status in (0, -signal.SIGKILL)
    return status != 0


def num_changes(work: Callable[[], Any]) -> int:
    """Run ``work`` in a fork to its end; how many changes it made."""
    reader, writer = os.pipe()
    assert ended(forked(work, lambda _: os.write(writer, b".") and None)) == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as changes:
        return len(changes.read())


def at_every_change(begin: Callable[[], Any], work: Callable[[], Any]) -> Iterator[int]:
    """Yield after each of the kills of ``work``, at its first change, its second …; ``begin`` prepares each time."""
    moment = 1
    begin()
    while killed_at(moment, work):
        yield moment
        moment += 1
        begin()
