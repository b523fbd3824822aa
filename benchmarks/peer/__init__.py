"""The parts of ``benchmarks/peers.py``: each returns calls that are timed in turns, ours among them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from measuring import spread

OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large a part is, and how often it is timed."""

    tiny: bool = False  # a dry run
    turns: int = 5

    def of(self, real: Any, tiny: Any) -> Any:
        """A value of the measurement, or that of a dry run."""
        return tiny if self.tiny else real


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What one part compares."""

    what: str  # one sentence
    calls: Mapping[str, Callable[[], Any]]  # name -> call; those whose name begins with OURS are ours
    goal: float | None = None  # ours over the peer's seconds, at most
    facts: Mapping[str, Any] = field(default_factory=dict)  # filled while it is timed, or before
    close: Callable[[], Any] = lambda: None


def processor_seconds() -> float:
    """Of this process and of those it has waited for (a loader's workers)."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def in_turns(comparison: Comparison, turns: int) -> dict[str, Any]:
    """Time every call once a turn, after a turn that does not count; ratios are taken within a turn, so that load cancels out."""
    clock: dict[str, list[float]] = {name: [] for name in comparison.calls}
    cpu: dict[str, list[float]] = {name: [] for name in comparison.calls}
    try:
        for turn in range(turns + 1):
            for name, call in comparison.calls.items():
                began, used = time.perf_counter(), processor_seconds()
                call()
                if turn:
                    clock[name].append(time.perf_counter() - began)
                    cpu[name].append(processor_seconds() - used)
    finally:
        comparison.close()
    ours = next(name for name in clock if name.startswith(OURS))

    def ratios(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
        return {
            name: spread([own / other for own, other in zip(seconds[ours], each, strict=True)])
            for name, each in seconds.items()
            if not name.startswith(OURS)
        }

    return {
        "what": comparison.what,
        "times": {name: {"seconds": spread(clock[name]), "cpu_seconds": spread(cpu[name])} for name in clock},
        "ratios": ratios(clock),
        "cpu_ratios": ratios(cpu),
        "goal": comparison.goal,
        "turns": turns,
        **comparison.facts,
    }
