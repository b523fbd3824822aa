"""Separation of two arms: area under the curve, outliers, runs of one arm, a small classifier; and how often the same bytes are shown.

An arm whose contents are shown more or less often than the others' tells itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import fisher_exact, norm, rankdata

from medcodi.randomness import numpy_generator
from medcodi.turing.bundle.files import ReaderBundle, ReaderFolder
from medcodi.turing.bundle.key import AnswerKey
from medcodi.turing.design.items import GENERATED, MISMATCHED, REAL
from medcodi.turing.lint.features import PayloadFeatures
from medcodi.turing.lint.files import Leak

ALPHA = 0.01  # probability of a false alarm for a whole clean bundle, shared by all tests
# Share of each family of tests: features, classifiers, order, multiplicity; each divides its own among its tests (Bonferroni).
SHARE = ALPHA / 4
RIDGE = 0.1  # penalty of the small classifier, beside a kernel of standardised features, whose diagonal is about 1


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve, real against generated: 0.5 no separation, 1 (or 0) perfect, with its interval."""

    value: float  # probability that a generated sample scores above a real one, ties counted half
    low: float
    high: float
    num_real: int
    num_generated: int

    @property
    def separates(self) -> bool:
        """Whether the interval excludes 0.5."""
        return self.low > 0.5 or self.high < 0.5

    def words(self) -> str:
        """For tables."""
        return f"AUC {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc_of(scores: np.ndarray, generated: np.ndarray, level: float = 0.95) -> Auc:
    """Area under the ROC curve of ``scores`` (float ``[N]``; ``generated``: bool ``[N]``), with an interval of coverage ``level``.

    The interval is Newcombe's method 5 (Statistics in Medicine 2006; 25: 559-573): a score interval with Hanley and McNeil's variance,
    which keeps a width at 0 and 1, where the variance itself is 0.
    """
    scores, generated = np.asarray(scores, dtype=np.float64), np.asarray(generated, dtype=bool)
    m, n = int(generated.sum()), int((~generated).sum())
    if m == 0 or n == 0:
        return Auc(0.5, 0.0, 1.0, n, m)
    # Mann-Whitney statistic.
    value = float((rankdata(scores)[generated].sum() - m * (m + 1) / 2) / (m * n))
    z = float(norm.ppf((1 + level) / 2))
    middle = (m + n) / 2

    def squared_distance(theta: float) -> float:
        spread = 1 + (middle - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (m * n)

    # The bounds are the roots on both sides of the value; at 0 and 1 the value itself is a root.
    inner = min(max(value, 1e-9), 1 - 1e-9)
    low: Any = brentq(squared_distance, 0.0, inner) if value > 0 else 0.0
    high: Any = brentq(squared_distance, inner, 1.0) if value < 1 else 1.0
    return Auc(value, float(low), float(high), n, m)


def outlier_test(scores: np.ndarray, generated: np.ndarray) -> tuple[str, float]:
    """Fisher's exact test of values other than the most frequent one, in words and p: finds a mark on few samples of one arm."""
    values, counts = np.unique(scores, return_counts=True)
    odd = scores != values[np.argmax(counts)]
    in_generated, in_real = int(odd[generated].sum()), int(odd[~generated].sum())
    m, n = int(generated.sum()), int((~generated).sum())
    p = float(fisher_exact([[in_generated, m - in_generated], [in_real, n - in_real]])[1])  # type: ignore[arg-type]
    return f"{in_generated} of {m} generated and {in_real} of {n} real stand out, p = {p:.1g}", p


def chance_of_turns(orders: Sequence[Sequence[bool]]) -> float:
    """p-value of Wald and Wolfowitz's runs test over all readers: too many, or too few, changes of arm."""
    excess = variance = 0.0
    for arms in orders:
        m, n = sum(arms), len(arms) - sum(arms)
        if min(m, n) < 2:
            continue
        # Mean and variance of the number of runs in a random order.
        expected = 2 * m * n / (m + n) + 1
        runs = 1 + sum(first != second for first, second in pairwise(arms))
        excess += runs - expected
        variance += (expected - 1) * (expected - 2) / (m + n - 1)
    return float(2 * norm.sf(abs(excess) / np.sqrt(variance))) if variance > 0 else 1.0


def classifier_scores(features: np.ndarray, generated: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Out-of-fold scores of a ridge discriminant: each group is scored by a classifier that has not seen it.

    Args:
        features: float ``[N, D]``.
        generated: bool ``[N]``.
        groups: Case of each row; rows of one case stay in one fold.

    Returns:
        float ``[N]``; higher is more like the generated arm.
    """
    return _scores_of_folds(features, np.asarray(generated, dtype=bool)[:, None], groups)[:, 0]


def chance_of_classifier(features: np.ndarray, generated: np.ndarray, groups: Sequence[str], alpha: float) -> float:
    """p-value of the classifier's area under the curve: the share of exchanged arms that it separates as well.

    Out-of-fold scores depend on each other, so an interval for independent ones alarms too often. Arms are exchanged between
    cases with as many rows, and within a case; ``alpha`` is the level that the p-value will be compared with.
    """
    generated = np.asarray(generated, dtype=bool)
    own = _areas(classifier_scores(features, generated, groups)[:, None], generated[:, None])[0]
    names, cluster = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(cluster, minlength=len(names))
    rng = numpy_generator("turing-lint-exchange", len(generated))
    num, as_good, done = int(np.ceil(8 / alpha)), 0, 0
    while done < num:
        count = min(4000, num - done)
        exchanged = np.empty((count, len(generated)), dtype=bool)
        for size in np.unique(sizes):
            rows = np.stack([np.flatnonzero(cluster == group) for group in np.flatnonzero(sizes == size)])  # [G, S]
            # Between cases, then within each.
            order = rng.random((count, len(rows))).argsort(axis=1)
            arms = generated[rows][order]  # [P, G, S]
            exchanged[:, rows] = np.take_along_axis(arms, rng.random(arms.shape).argsort(axis=2), axis=2)
        areas = _areas(_scores_of_folds(features, exchanged.T, groups), exchanged.T)
        as_good += int((areas >= own - 1e-9).sum())
        done += count
    return (1 + as_good) / (1 + num)


def _areas(scores: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Area under the curve of each column: ``[N, P]``, bool ``[N, P]`` -> ``[P]``."""
    m = generated.sum(0)
    return ((rankdata(scores, axis=0) * generated).sum(0) - m * (m + 1) / 2) / (m * (len(scores) - m))


def _scores_of_folds(features: np.ndarray, generated: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """The same for each column of arms: bool ``[N, P]`` -> float ``[N, P]``."""
    features = np.nan_to_num(np.asarray(features, dtype=np.float64))
    target = np.where(generated, 1.0, -1.0)
    # At most ten folds of whole groups.
    names, cluster = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    fold = numpy_generator("turing-lint-folds", len(names)).permutation(len(names))[cluster] % min(10, len(names))
    scores = np.zeros(target.shape)
    for number in np.unique(fold):
        train, test = fold != number, fold == number
        if not train.any():
            continue
        # Standardise by the training rows.
        mean, spread = features[train].mean(0), features[train].std(0)
        used = spread > 1e-12
        if not used.any():
            continue
        x = (features[:, used] - mean[used]) / spread[used]
        centred = target[train] - target[train].mean(0)  # zero where only one arm is in training
        # The dual form has one unknown per row, whatever the number of features.
        kernel = x[train] @ x[train].T / x.shape[1]
        weights = np.linalg.solve(kernel + RIDGE * np.eye(len(kernel)), centred)
        scores[test] = x[test] @ x[train].T / x.shape[1] @ weights
    return scores


# ---- multiplicity: how often the same bytes are shown ----------------------------------------------------------------
_FIX = "more real studies, so that none is shown in two places; then export again"


@dataclass(frozen=True)
class _CountedPanel:
    """One panel of a trial that counts, with how often its bytes are shown."""

    task: str
    arm: str
    panel: str  # its title, such as "Frontal view"
    in_task: int  # times in this task
    in_folder: int  # times in the whole folder


def multiplicity_leaks(bundle: ReaderBundle, key: AnswerKey, features: PayloadFeatures) -> list[Leak]:
    """Arms that can be recognised by how often their contents are shown, task by task and panel by panel.

    Generated items are compared with real ones within a task; mismatched items with the others, which are made of real contents too, also
    within the whole folder.
    """
    # Every reader is shown the same items: the first one with a leak is enough.
    for reader in bundle.readers:
        if leaks := list(_reader_leaks(reader, key, features)):
            return leaks
    return []


def _reader_leaks(reader: ReaderFolder, key: AnswerKey, features: PayloadFeatures) -> Iterator[Leak]:
    shown = list(_counted_panels(reader, key, features))
    # Contrasts: task, panel, the arm that may tell itself, what it is compared with, and where contents are counted.
    contrasts = [
        (task, panel, arm, others, where)
        for task, panel in dict.fromkeys((entry.task, entry.panel) for entry in shown)
        for arm, others, where in (
            (GENERATED, (REAL,), "in_task"),
            (MISMATCHED, (REAL, GENERATED), "in_task"),
            (MISMATCHED, (REAL,), "in_folder"),
        )
    ]
    alpha = SHARE / max(1, 2 * len(contrasts))
    for task, panel, arm, others, where in contrasts:
        own = [entry for entry in shown if (entry.task, entry.panel) == (task, panel) and entry.arm in (arm, *others)]
        times = np.array([getattr(entry, where) for entry in own])
        marked = np.array([entry.arm == arm for entry in own])
        if not own or marked.all() or not marked.any() or not np.ptp(times):
            continue
        if auc_of(times, marked, 1 - alpha).separates or outlier_test(times, marked)[1] < alpha:
            place = "the task" if where == "in_task" else "the folder"
            yield Leak(
                "multiplicity",
                f"{reader.name}, task {task!r}: {panel} of {arm} items is shown {times[marked].mean():.1f} times in {place}, "
                f"of {' and '.join(others)} items {times[~marked].mean():.1f} times",
                _FIX,
            )


def _counted_panels(reader: ReaderFolder, key: AnswerKey, features: PayloadFeatures) -> Iterator[_CountedPanel]:
    """Every panel of the trials that count; those of practice and repeats are counted, but not compared."""
    entries, digests = key.trials.get(reader.name, {}), features.digests
    panels = [
        (entries.get(trial["trial"]), panel, digests.get((reader.name, panel["payload"])))
        for trial in reader.study["trials"]
        for panel in trial["panels"]
    ]
    known = [(entry, panel, digest) for entry, panel, digest in panels if entry is not None and digest is not None]
    in_task = Counter((entry["task"], digest) for entry, _, digest in known)
    in_folder = Counter(digest for *_, digest in known)
    for entry, panel, digest in known:
        if not entry["practice"] and not entry["repeat_of"]:
            counts = in_task[entry["task"], digest], in_folder[digest]
            yield _CountedPanel(entry["task"], entry["arm"], str(panel["title"]), *counts)
