"""Figures as they are stored in the results: value, interval, ceiling, floor; and what is left out, with the numbers it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medcodi.evaluation.scoring.statistics import StudyStatistic
from medcodi.metrics.bootstrap import Interval, Statistic, bootstrap_interval


def plain(number: float | None) -> float | None:
    """A number for JSON: None if it is NaN or infinite."""
    return None if number is None or not np.isfinite(number) else float(number)


def figure_record(
    value: Interval | float | None, *, ceiling: float | None = None, floor: Interval | float | None = None, **more: Any
) -> dict[str, Any]:
    """One figure of ``results.json``: value, low, high, ceiling, floor; None if unknown."""
    interval = value if isinstance(value, Interval) else Interval(np.nan if value is None else value, np.nan, np.nan)
    return {
        **{name: plain(number) for name, number in interval.to_dict().items()},
        "ceiling": plain(ceiling),
        "floor": plain(floor.value if isinstance(floor, Interval) else floor),
        **more,
    }


def value_of(statistic: Statistic, num: int) -> float:
    """The statistic on all ``num`` studies, each counted once."""
    return float(statistic(np.ones((1, num)))[0])


def flag(flagged: Sequence[bool] | np.ndarray, study_ids: Sequence[str], shown: int = 5) -> dict[str, Any] | None:
    """Number of flagged studies, and the first of them; None if there are none."""
    rows = np.flatnonzero(flagged)
    return {"count": len(rows), "studies": [study_ids[row] for row in rows[:shown]]} if len(rows) else None


@dataclass
class TargetScores:
    """Scores of one target of a direction (or of a pair of targets), and the statistics behind them."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> figure
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)  # finding, or finding/side -> figures
    # metrics that are missing: metric, reason, and if studies are too few, `needed` and `available`
    left_out: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a reader must know
    # what is odd about the contents: number, and the first studies
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    statistics: dict[str, StudyStatistic] = field(default_factory=dict)  # metric -> the statistic of its figure
    # the same, for metrics that a primary figure is averaged over
    floors: dict[str, StudyStatistic] = field(default_factory=dict)
    ceilings: dict[str, StudyStatistic] = field(default_factory=dict)
    counted: list[int] = field(default_factory=list)  # columns of CheXpert's labels that count here
    subgroups: dict[str, dict[str, Any]] = field(default_factory=dict)  # metric -> groups, worst, best, gap
    by_finding: dict[str, dict[str, Any]] = field(default_factory=dict)  # finding -> studies, metrics, left_out

    def leave_out(self, metric: str, reason: str, needed: int | None = None, available: int | None = None) -> None:
        """List a metric as left out."""
        numbers = {} if needed is None else {"needed": needed, "available": available}
        self.left_out.append({"metric": metric, "reason": reason, **numbers})

    def enough(self, metric: str, needed: int, available: int, subject: str) -> bool:
        """Whether there are enough studies; if not, the metric is listed as left out."""
        if available < needed:
            reason = f"{subject} needs at least {needed} studies; there are {available}"
            self.leave_out(metric, reason, needed, available)
        return available >= needed

    def add(
        self,
        name: str,
        statistic: StudyStatistic,
        weights: np.ndarray,
        *,
        ceiling: StudyStatistic | float | None = None,
        floor: StudyStatistic | float | None = None,
        **more: Any,
    ) -> None:
        """Add a figure with its interval, ceiling and floor.

        ``weights`` are bootstrap resamples, ``[R, N]``; ceiling and floor are statistics on the same studies, or numbers; ``more``: further keys.
        """

        def number(bound: StudyStatistic | float | None) -> float | None:
            if bound is None or isinstance(bound, int | float):
                return bound
            return value_of(bound.statistic(), weights.shape[1])

        interval = bootstrap_interval(statistic.statistic(), weights)
        self.metrics[name] = figure_record(interval, ceiling=number(ceiling), floor=number(floor), **more)
        self.statistics[name] = statistic
        for bounds, bound in ((self.floors, floor), (self.ceilings, ceiling)):
            if bound is not None and not isinstance(bound, int | float):
                bounds[name] = bound

    def to_dict(self) -> dict[str, Any]:
        """As stored in ``results.json``."""
        return {
            "metrics": self.metrics,
            "findings": self.findings,
            "left_out": self.left_out,
            "notes": self.notes,
            "flags": self.flags,
            **({"subgroups": self.subgroups} if self.subgroups else {}),
            **({"by_finding": self.by_finding} if self.by_finding else {}),
        }
