"""A function run in a process that is killed at its n-th change to the file system."""

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


def killed_at(moment: int, work: Callable[[], Any]) -> bool:
    """Run ``work`` in a fork that is killed before its change number ``moment``; False: it ended before that."""
    child = os.fork()
    if child == 0:
        seen = []

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if _is_change(event, arguments):
                seen.append(event)
                if len(seen) == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def at_every_change(begin: Callable[[], Any], work: Callable[[], Any]) -> Iterator[int]:
    """Yield after each of the kills of ``work``, at its first change, its second …; ``begin`` prepares each time."""
    moment = 1
    begin()
    while killed_at(moment, work):
        yield moment
        moment += 1
        begin()
