"""What the analysis of a task collects, and the parts that all kinds of task share: agreement between readers, consistency."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from medcodi.errors import DataError
from medcodi.turing.answers.table import TaskAnswers
from medcodi.turing.statistics import (
    NEW_READERS,
    THESE_READERS,
    Cases,
    Estimate,
    Resampled,
    agreement,
    consistency,
    detection,
    equivalence,
)


@dataclass
class Findings:
    """What the analysis of a task found, in plain values."""

    task: str  # its id
    level: float  # coverage of intervals
    seed: int  # key of the bootstrap
    num_resamples: int  # bootstrap samples
    margin: float | None  # declared margin; None without one
    alpha: float  # level of tests
    # A record each: task, group, statistic, contrast, reader and the estimate
    estimates: list[dict[str, Any]] = field(default_factory=list)
    # A record each: task, group, contrast, reader, name, population, p
    tests: list[dict[str, Any]] = field(default_factory=list)
    equivalences: list[dict[str, Any]] = field(default_factory=list)  # A record each
    extra: dict[str, Any] = field(default_factory=dict)  # figures' data: distributions, ROC points, blocks, components
    notes: list[str] = field(default_factory=list)  # what could not be computed, and why

    def add(self, group: str, statistic: str, estimate: Estimate, *, contrast: str = "", reader: str = "") -> None:
        """Record an estimate."""
        head = {"task": self.task, "group": group, "statistic": statistic, "contrast": contrast, "reader": reader}
        self.estimates.append(head | estimate.to_dict())

    def both(
        self, group: str, statistic: str, resampled: Resampled, *, share: bool = False, contrast: str = ""
    ) -> None:
        """Record the mean over readers for these readers, and for new ones where there are enough."""
        for estimate in detection.both(resampled, share=share, level=self.level).values():
            if np.isfinite(estimate.low) or estimate.population == THESE_READERS:
                self.add(group, statistic, estimate, contrast=contrast)

    def test(
        self, name: str, p: float, *, group: str, contrast: str, reader: str = "", population: str = THESE_READERS
    ) -> None:
        """Record a test that could be made."""
        if np.isfinite(p):
            head = {"task": self.task, "group": group, "contrast": contrast, "reader": reader, "test": name}
            self.tests.append(head | {"population": population, "p": float(p)})

    def equivalent(self, what: str, resampled: Resampled, *, reference: float, contrast: str) -> None:
        """Record two one-sided tests for both populations, if the study declared a margin."""
        if self.margin is None or not resampled.num_readers:
            return
        for population in (THESE_READERS, NEW_READERS):
            found = equivalence.tost(resampled, self.margin, population, reference=reference, alpha=self.alpha)
            if np.isfinite(found.p):
                head = {"task": self.task, "what": what, "contrast": contrast, "population": population}
                self.equivalences.append(head | found.to_dict())


def add_agreement(values: np.ndarray, readers: list[str], cases: Cases, found: Findings, *, ordered: bool) -> None:
    """Between readers: kappas, alpha, and for ratings the intraclass correlation."""
    if len(readers) < 2:
        found.notes.append("one reader: no agreement between readers")
        return
    weights, word = ("quadratic", "Cohen's kappa, quadratic weights") if ordered else (None, "Cohen's kappa")
    for first, second in combinations(range(len(readers)), 2):
        estimate = agreement.cohen_kappa(values[first], values[second], cases, weights=weights, level=found.level)
        found.add("agreement", word, estimate, reader=f"{readers[first]}, {readers[second]}")
    found.add("agreement", "Fleiss' kappa", agreement.fleiss_kappa(values, cases, level=found.level))
    for metric in ("ordinal", "interval") if ordered else ("nominal",):
        add_alpha(values, metric, cases, found, group="agreement")
    if not ordered:
        return
    try:
        coefficients = agreement.icc(values, level=found.level)
    except DataError as error:
        found.notes.append(str(error))
        return
    for name in ("2,1", "2,k", "3,1", "3,k"):
        found.add("agreement", f"ICC({name})", coefficients[name])


def add_alpha(values: np.ndarray, metric: str, cases: Cases, found: Findings, *, group: str) -> None:
    """Krippendorff's alpha, or a note why there is none."""
    try:
        estimate = agreement.krippendorff_alpha(values, metric=metric, cases=cases, level=found.level)
    except DataError as error:
        found.notes.append(str(error))
        return
    found.add(group, f"Krippendorff's alpha, {metric}", estimate)


def add_learning(answers: TaskAnswers, found: Findings) -> None:
    """Trend over trials of accuracy and of time, and the blocks of the figure."""
    correct, order = answers.matrix("correct"), answers.matrix("position")
    add_time(answers, found)
    order = np.where(np.isfinite(correct), order, np.nan)
    if num_known(correct) < 4 or not np.isfinite(order).any(1).all():
        return
    cases = answers.cases()
    found.both("learning", "accuracy, last trial - first (line)", consistency.trend(correct, order, cases))
    found.extra["blocks"] = [
        {"first": b.first, "last": b.last, "accuracy": b.accuracy.to_dict()}
        | {"median_seconds": b.median_seconds if np.isfinite(b.median_seconds) else None}
        for b in consistency.blocks(correct, answers.matrix("seconds"), order, cases, level=found.level)
    ]


def add_time(answers: TaskAnswers, found: Findings) -> None:
    """Trend of the time of an answer over trials."""
    seconds, order = answers.matrix("seconds"), answers.matrix("position")
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(seconds > 0, np.log(seconds), np.nan)
    order = np.where(np.isfinite(times), order, np.nan)
    if num_known(times) >= 4 and np.isfinite(order).any(1).all():
        found.both(
            "learning", "log seconds, last trial - first (line)", consistency.trend(times, order, answers.cases())
        )


def num_known(values: np.ndarray) -> int:
    """Answers given."""
    return int(np.isfinite(values).sum())
