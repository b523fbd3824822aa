"""Power to show equivalence within a margin, by number of readers and items: simulated studies, analysed as real ones are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from medcodi.errors import ConfigError
from medcodi.turing.answers.table import Answers
from medcodi.turing.design.tasks import task_kind
from medcodi.turing.power.simulation import ReaderModel, SimulatedReaders, SimulatedStudy, Truth, simulate
from medcodi.turing.statistics import NEW_READERS, THESE_READERS, Cases, Resampled, jackknife
from medcodi.turing.statistics.detection import mean_statistic, rates
from medcodi.turing.statistics.equivalence import check_margin, tost
from medcodi.turing.statistics.intervals import wilson
from medcodi.turing.statistics.ratings import difference, fit_mixed


@dataclass(frozen=True, kw_only=True)
class PowerCell:
    """Power of a study of one size."""

    readers: int  # number of readers
    items: int  # items of each arm
    these_readers: float  # share of studies that show equivalence for the readers who took part
    new_readers: float | None  # the same for readers in general; None with fewer than 3
    low: float  # Wilson interval (95 %) of `these_readers`, because the number of simulated studies is finite
    high: float


def _accuracy_of_pairs(study: SimulatedStudy) -> Resampled:
    """Accuracy of a forced choice: each pair of a real and a generated item is a case."""
    right = study.forced_choice
    pairs = [str(i) for i in range(right.shape[1])]
    return jackknife(mean_statistic(right), Cases.of(pairs, ["pair"] * len(pairs)))


# Statistic, its value at equality, name of its truth.
_Simulated = tuple[Callable[[SimulatedStudy], Resampled], float, str]
_STATISTICS: dict[tuple[str, int], _Simulated] = {  # by answer and number of sides
    ("rating", 1): (lambda study: difference(study.as_ratings), 0.0, "difference"),
    ("choice", 1): (
        lambda study: jackknife(rates(study.as_detection)["balanced_accuracy"], study.cases),
        0.5,
        "balanced_accuracy",
    ),
    ("choice", 2): (_accuracy_of_pairs, 0.5, "forced_choice"),
}


def power(
    kind: str,
    margin: float,
    *,
    items: Sequence[int] = (20, 30, 40, 60, 80, 120),
    readers: Sequence[int] = (2, 3, 4, 6, 8),
    model: ReaderModel | None = None,
    true_value: float = 0.0,
    paired: bool = True,
    alpha: float = 0.05,
    num_studies: int = 400,
    seed: int = 0,
    on_cell: Callable[[int, int], None] | None = None,
) -> list[PowerCell]:
    """Power to show equivalence, for each number of readers and items.

    Args:
        kind: Kind of task, answered by a rating or a choice.
        margin: In rating units, or as a distance of the (balanced) accuracy from 0.5.
        items: Numbers of items of each arm.
        readers: Numbers of readers.
        model: How readers answer; None: the default. ``true_value`` replaces its effect (or d').
        true_value: True difference in mean rating, or true distance of the accuracy from 0.5.
        paired: Generated items show the same cases as real ones.
        alpha: Level of each one-sided test.
        num_studies: Simulated studies for each cell.
        seed: Seed of the simulation.
        on_cell: Called with (done, total).

    Raises:
        ConfigError: If a number is invalid, or no power is defined for the kind.
    """
    statistic, reference, name = _statistic(kind)
    check_margin(margin)
    for what, values, least in (("items", items, 2), ("readers", readers, 1)):
        if not values or min(values) < least:
            raise ConfigError(f"{what} {list(values)}", expected=f"numbers from {least}", fix=f"correct {what}")
    if not 0 < alpha < 0.5 or num_studies < 1:
        raise ConfigError(f"alpha {alpha}, {num_studies} studies", expected="alpha below 0.5, at least one study")
    if abs(true_value) >= margin:
        raise ConfigError(
            f"the true value {true_value} is outside the margin {margin}",
            expected="a smaller one: equivalence must be true to be shown",
            fix="a wider margin, or a true value nearer to 0",
        )
    paired = paired and name != "forced_choice"  # the two of a pair are taken to be of different cases
    model = with_truth(model or ReaderModel(), name, true_value, reference)
    cells = []
    sizes = [(r, i) for r in readers for i in items]
    for done, (num_readers, num_items) in enumerate(sizes):
        # Count the studies that show equivalence, for these readers and for new ones.
        shown = np.zeros(2)
        for index in range(num_studies):
            keys = ("power", seed, num_readers, num_items, index)
            study = simulate(model, *keys, num_readers=num_readers, num_per_arm=num_items, paired=paired)
            resampled = statistic(study)
            for p, population in enumerate((THESE_READERS, NEW_READERS)):
                shown[p] += tost(resampled, margin, population, reference=reference, alpha=alpha).shown
        low, high = wilson(shown[0], num_studies)
        cells.append(
            PowerCell(
                readers=num_readers,
                items=num_items,
                these_readers=shown[0] / num_studies,
                new_readers=shown[1] / num_studies if num_readers >= 3 else None,
                low=low,
                high=high,
            )
        )
        if on_cell:
            on_cell(done + 1, len(sizes))
    return cells


def _statistic(kind: str) -> _Simulated:
    row = task_kind(kind)
    statistic = _STATISTICS.get((row.answer, len(row.sides)))
    if statistic is None:
        raise ConfigError(
            f"no power for tasks of kind {kind!r}",
            expected="a task that is answered by a rating or a choice",
            fix="how often a finding is marked right depends on the cases: take the spread from a pilot",
        )
    return statistic


def with_truth(model: ReaderModel, name: str, value: float, reference: float) -> ReaderModel:
    """Set the mean effect (or d') of the readers so that the statistic ``name`` of the population is ``reference + value``."""
    # Bisection on the limit of the statistic over many readers.
    drawn = SimulatedReaders.draw(model, 4000, np.random.default_rng(7))
    low, high = -4.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        field, centre = ("shift", model.effect) if name == "difference" else ("d_prime", model.d_prime)
        moved = replace(drawn, **{field: getattr(drawn, field) - centre + middle})
        if Truth(model, moved).mean(name) < reference + value:
            low = middle
        else:
            high = middle
    return replace(model, **{"effect" if name == "difference" else "d_prime": (low + high) / 2})


def needed(cells: Sequence[PowerCell], target: float = 0.8, *, new_readers: bool = False) -> list[PowerCell]:
    """For each number of readers, the smallest cell that reaches the power ``target``."""
    best: dict[int, PowerCell] = {}
    for cell in sorted(cells, key=lambda cell: cell.items):
        reached = cell.new_readers if new_readers else cell.these_readers
        if reached is not None and reached >= target:
            best.setdefault(cell.readers, cell)
    return [best[r] for r in sorted(best)]


def model_from_pilot(answers: Answers, task: str) -> ReaderModel:
    """Reader model fitted to a pilot: variances of case, reader and reader by arm from the mixed model, relative to one answer's.

    Raises:
        DataError: If the task has no ratings of real and generated items.
        ConfigError: If it is not a rating task.
    """
    own = answers.of(task)
    if own.kind.answer != "rating":
        raise ConfigError(
            f"the pilot's task {task!r} is not a rating", expected="a rating task", fix="choose another with --task"
        )
    pair = own.ratings(own.matrix("rating"), "generated")
    model = fit_mixed(pair)
    if model is None:
        raise ConfigError(f"the pilot's task {task!r} has no mixed model", expected="2 readers, ratings that differ")
    # Latent scales have variance 1 within one reader and arm: case + residual.
    parts: dict[str, Any] = model.components
    within = parts["case"] + parts["residual"]
    # Cuts at the normal quantiles of the observed shares of ratings.
    counts = np.bincount(np.clip(pair.values[np.isfinite(pair.values)].round().astype(int), 1, 5), minlength=6)[1:6]
    below = np.clip(np.cumsum(counts)[:-1] / counts.sum(), 0.01, 0.99)
    spread = float(np.sqrt(1 + parts["reader"] / within))
    return ReaderModel(
        quality=0.0,
        case_share=min(parts["case"] / within, 0.95),
        reader_sd=float(np.sqrt(parts["reader"] / within)),
        interaction_sd=float(np.sqrt(2 * parts["reader_arm"] / within)),
        cuts=tuple(float(c) for c in np.maximum.accumulate(ndtri(below) * spread + np.arange(4) * 1e-6)),
    )
