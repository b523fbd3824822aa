"""Figures as they stand in the results: value, interval, ceiling, floor; what is left out, and the numbers that it would need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from medcodi.config import Count, at_least, config
from medcodi.evaluation.materials import Material
from medcodi.metrics.bootstrap import Interval, Statistic, bootstrap_interval


@config
class ScoringOptions:
    """How sure the figures are to be, and which findings count.

    Attributes:
        metrics: Groups of metrics.
        bootstrap_samples: Resamples of each interval.
        frechet_samples: Resamples of a Fréchet distance's interval, at most: it takes a decomposition each. Below 100 there is no interval.
        permutations: Of each paired test, at most.
        min_positives: A finding counts where at least so many of the scored studies truly have it.
        unmentioned: What a label is that a study leaves blank and that tells others: ``absent``, as CheXpert's tables and this project's
            readers of reports mean it, or ``unknown``, where labels were given in part. Uncertain ones (-1) are left out either way.
        kernel_subset, kernel_subsets: Samples and number of the subsets that the kernel distance is also taken over.
        neighbours: k of precision, recall, density and coverage.
        diversity_pairs: Pairs whose MS-SSIM is taken.
        seed: Of resamples, derangements, pairs and subsets; of a whole evaluation, also of generation and pictures.
    """

    metrics: tuple[str, ...] = (
        "frechet", "kernel", "prdc", "diversity", "similarity", "findings", "text", "coherence",
    )  # fmt: skip
    bootstrap_samples: Annotated[int, at_least(100)] = 1000
    frechet_samples: Count = 200
    permutations: Annotated[int, at_least(100)] = 2000
    min_positives: Count = 5
    unmentioned: Literal["absent", "unknown"] = "absent"
    kernel_subset: Annotated[int, at_least(2)] = 1000
    kernel_subsets: Count = 100
    neighbours: Count = 5
    diversity_pairs: Count = 100
    seed: int = 0


def plain(number: float | None) -> float | None:
    """A number for JSON: None where it is NaN or infinite."""
    return None if number is None or not np.isfinite(number) else float(number)


def record(
    value: Interval | float | None, *, ceiling: float | None = None, floor: Interval | float | None = None, **more: Any
) -> dict[str, Any]:
    """One figure as it stands in ``results.json``: value, low, high, ceiling, floor; None where there is none."""
    spread = value if isinstance(value, Interval) else Interval(np.nan if value is None else value, np.nan, np.nan)
    return {
        **{name: plain(number) for name, number in spread.to_dict().items()},
        "ceiling": plain(ceiling),
        "floor": plain(floor.value if isinstance(floor, Interval) else floor),
        **more,
    }


def value_of(statistic: Statistic, num: int) -> float:
    """The statistic on all studies, each counted once."""
    return float(statistic(np.ones((1, num)))[0])


@dataclass
class TargetScores:
    """Scores of one target of a direction (or of a pair of targets), and what they are made of.

    Attributes:
        metrics: Name -> figure.
        findings: Finding, or finding/side -> figures.
        left_out: Metrics that are not there: metric, reason, and where too few studies are the reason, ``needed`` and ``available``.
        notes: What a reader must know.
        flags: What is odd about the contents: how many, and the first studies.
        materials: Metric -> what the figure is made of.
        floors, ceilings: Of the metrics that primary figures are averaged of.
        counted: Which of CheXpert's labels count here, by their places.
    """

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    materials: dict[str, Material] = field(default_factory=dict)
    floors: dict[str, Material] = field(default_factory=dict)
    ceilings: dict[str, Material] = field(default_factory=dict)
    counted: list[int] = field(default_factory=list)

    def leave_out(self, metric: str, reason: str, needed: int | None = None, available: int | None = None) -> None:
        """List a metric as left out."""
        entry: dict[str, Any] = {"metric": metric, "reason": reason}
        if needed is not None:
            entry |= {"needed": needed, "available": available}
        self.left_out.append(entry)

    def enough(self, metric: str, needed: int, available: int, why: str) -> bool:
        """Whether there are enough studies; where not, the metric is listed as left out."""
        if available < needed:
            self.leave_out(metric, f"{why} needs at least {needed} studies; there are {available}", needed, available)
        return available >= needed

    def add(
        self,
        name: str,
        model: Material,
        weights: np.ndarray,
        *,
        ceiling: Material | float | None = None,
        floor: Material | float | None = None,
        **more: Any,
    ) -> None:
        """Put a figure with its interval beside its ceiling and floor."""
        num = weights.shape[1]

        def number(one: Material | float | None) -> float | None:
            return one if one is None or isinstance(one, int | float) else value_of(one.statistic(), num)

        self.materials[name] = model
        self.metrics[name] = record(
            bootstrap_interval(model.statistic(), weights), ceiling=number(ceiling), floor=number(floor), **more
        )
        for kept, one in ((self.floors, floor), (self.ceilings, ceiling)):
            if one is not None and not isinstance(one, int | float):
                kept[name] = one

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``results.json``."""
        return {
            "metrics": self.metrics,
            "findings": self.findings,
            "left_out": self.left_out,
            "notes": self.notes,
            "flags": self.flags,
        }


def flag(rows: Sequence[bool] | np.ndarray, study_ids: Sequence[str], shown: int = 5) -> dict[str, Any] | None:
    """How many studies are flagged, and the first of them; None where there are none."""
    found = np.flatnonzero(rows)
    return {"count": len(found), "studies": [study_ids[row] for row in found[:shown]]} if len(found) else None
