"""Results of one task as flat records, and the analyses that all kinds of task share: agreement, learning and time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from medcodi.errors import DataError
from medcodi.turing.answers.table import TaskAnswers
from medcodi.turing.statistics import (
    NEW_READERS,
    SINGLE_READER,
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
class TaskResults:
    """Results of the analysis of one task, in plain values."""

    task: str
    level: float  # coverage of intervals
    seed: int  # seed of the bootstrap
    num_resamples: int  # bootstrap samples
    margin: float | None  # declared equivalence margin
    alpha: float  # level of tests
    estimates: list[dict[str, Any]] = field(default_factory=list)  # task, group, statistic, contrast, reader, estimate
    tests: list[dict[str, Any]] = field(default_factory=list)  # task, group, contrast, reader, test, population, p
    equivalences: list[dict[str, Any]] = field(default_factory=list)  # task, what, contrast, population, tests
    extra: dict[str, Any] = field(default_factory=dict)  # data of the charts: distributions, ROC points, blocks
    notes: list[str] = field(default_factory=list)  # what could not be computed, and why

    def add(self, group: str, statistic: str, estimate: Estimate, *, contrast: str = "", reader: str = "") -> None:
        """Record an estimate."""
        head = {"task": self.task, "group": group, "statistic": statistic, "contrast": contrast, "reader": reader}
        self.estimates.append(head | estimate.to_dict())

    def add_means(
        self,
        group: str,
        statistic: str,
        resampled: Resampled,
        *,
        share: bool = False,
        contrast: str = "",
        possible: tuple[float, float] = (-np.inf, np.inf),
    ) -> None:
        """Record the mean over readers, with intervals cut to the ``possible`` values: for these readers and, if there are enough, for new ones."""
        for estimate in detection.both_populations(resampled, share=share, level=self.level):
            if np.isfinite(estimate.low) or estimate.population == THESE_READERS:
                self.add(group, statistic, estimate.within(*possible), contrast=contrast)

    def test(
        self, name: str, p: float, *, group: str, contrast: str, reader: str = "", population: str = THESE_READERS
    ) -> None:
        """Record a test; one without a p-value is skipped."""
        if np.isfinite(p):
            head = {"task": self.task, "group": group, "contrast": contrast, "reader": reader, "test": name}
            self.tests.append(head | {"population": population, "p": float(p)})

    def t_tests(self, name: str, resampled: Resampled, null: float, *, group: str, contrast: str) -> None:
        """Record t tests of the mean over readers against ``null``, for these readers and for new ones."""
        for population in (THESE_READERS, NEW_READERS):
            p = detection.t_test(resampled, null, population)
            self.test(name, p, group=group, contrast=contrast, population=population)

    def chance_test(self, correct: np.ndarray, *, contrast: str, reader: str) -> None:
        """Record an exact test of one reader's answers, float ``[I]``, against guessing."""
        named = {"group": "detection", "contrast": contrast, "reader": reader, "population": SINGLE_READER}
        self.test("exact binomial against guessing", detection.chance_test(correct), **named)

    def equivalent(
        self,
        what: str,
        resampled: Resampled,
        *,
        reference: float,
        contrast: str,
        possible: tuple[float, float] = (-np.inf, np.inf),
    ) -> None:
        """Record two one-sided tests for both populations, if a margin is declared."""
        if self.margin is None or not resampled.num_readers:
            return
        for population in (THESE_READERS, NEW_READERS):
            test = equivalence.tost(resampled, self.margin, population, reference=reference, alpha=self.alpha)
            if np.isfinite(test.p):
                head = {"task": self.task, "what": what, "contrast": contrast, "population": population}
                test = replace(test, estimate=test.estimate.within(*possible))
                self.equivalences.append(head | test.to_dict())


def add_agreement(values: np.ndarray, readers: list[str], cases: Cases, results: TaskResults, *, ordered: bool) -> None:
    """Agreement between readers: kappas, alpha, and for ratings intraclass correlations."""
    if len(readers) < 2:
        results.notes.append("one reader: no agreement between readers")
        return
    # Kappa of every pair of readers, then coefficients of all readers.
    weights, name = ("quadratic", "Cohen's kappa, quadratic weights") if ordered else (None, "Cohen's kappa")
    for first, second in combinations(range(len(readers)), 2):
        estimate = agreement.cohen_kappa(values[first], values[second], cases, weights=weights, level=results.level)
        results.add("agreement", name, estimate, reader=f"{readers[first]}, {readers[second]}")
    results.add("agreement", "Fleiss' kappa", agreement.fleiss_kappa(values, cases, level=results.level))
    for metric in ("ordinal", "interval") if ordered else ("nominal",):
        add_alpha(values, metric, cases, results, group="agreement")
    # Intraclass correlations need complete ratings.
    if not ordered:
        return
    try:
        coefficients = agreement.icc(values, level=results.level)
    except DataError as error:
        results.notes.append(str(error))
        return
    for case in ("2,1", "2,k", "3,1", "3,k"):
        results.add("agreement", f"ICC({case})", coefficients[case])


def add_alpha(values: np.ndarray, metric: str, cases: Cases, results: TaskResults, *, group: str) -> None:
    """Krippendorff's alpha, or a note on why it is missing."""
    try:
        estimate = agreement.krippendorff_alpha(values, metric=metric, cases=cases, level=results.level)
    except DataError as error:
        results.notes.append(str(error))
        return
    results.add(group, f"Krippendorff's alpha, {metric}", estimate)


def add_learning(answers: TaskAnswers, results: TaskResults) -> None:
    """Trends of accuracy and time over trials, and the blocks of the chart."""
    correct, order = answers.matrix("correct"), answers.matrix("position")
    add_time(answers, results)
    # A trend needs 4 answers, and at least one of each reader.
    order = np.where(np.isfinite(correct), order, np.nan)
    if num_known(correct) < 4 or not np.isfinite(order).any(1).all():
        return
    cases = answers.cases()
    results.add_means("learning", "accuracy, last trial - first (line)", consistency.trend(correct, order, cases))
    results.extra["blocks"] = [
        {"first": b.first, "last": b.last, "accuracy": b.accuracy.to_dict()}
        | {"median_seconds": b.median_seconds if np.isfinite(b.median_seconds) else None}
        for b in consistency.blocks(correct, answers.matrix("seconds"), order, cases, level=results.level)
    ]


def add_time(answers: TaskAnswers, results: TaskResults) -> None:
    """Trend over trials of the logarithm of the time of an answer."""
    seconds, order = answers.matrix("seconds"), answers.matrix("position")
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(seconds > 0, np.log(seconds), np.nan)
    order = np.where(np.isfinite(times), order, np.nan)
    if num_known(times) >= 4 and np.isfinite(order).any(1).all():
        results.add_means(
            "learning", "log seconds, last trial - first (line)", consistency.trend(times, order, answers.cases())
        )


def num_known(values: np.ndarray) -> int:
    """Number of answers."""
    return int(np.isfinite(values).sum())
