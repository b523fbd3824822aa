"""What a figure is made of, study by study: so that it can be resampled, cut to common studies, and set against another system's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from medcodi.metrics.bootstrap import Statistic, paired_difference, resampling_weights, weighted_mean
from medcodi.metrics.classification import auprc_statistic, auroc_statistic, mean_statistic
from medcodi.metrics.findings import Confusion
from medcodi.metrics.paired import paired_test, stacked_confusion
from medcodi.metrics.text import TextScorer

LEAST_RESAMPLES = 100  # of an interval
AREAS = {"auroc": auroc_statistic, "auprc": auprc_statistic}


class NotComparableError(Exception):
    """Why two figures are not set against each other: the text is for the list of what was left out."""


class Material(Protocol):
    """What a figure is made of."""

    def statistic(self) -> Statistic:
        """The figure as a function of study weights."""
        ...

    def take(self, rows: Sequence[int]) -> Self:
        """Of some of the studies."""
        ...

    def stacked(self, other: Self) -> Statistic | None:
        """Of two systems' rows, one below the other, for a permutation test; None where that cannot be."""
        ...


@dataclass(frozen=True)
class Means:
    """A mean over studies: float ``[N]``, NaN where a study has none."""

    values: np.ndarray

    def statistic(self) -> Statistic:
        """The mean."""
        return weighted_mean(self.values)

    def take(self, rows: Sequence[int]) -> Means:
        """Of some of the studies."""
        return Means(self.values[list(rows)])

    def stacked(self, other: Means) -> Statistic:
        """The mean over both."""
        return weighted_mean(np.concatenate([self.values, other.values]))


@dataclass(frozen=True)
class Ratio:
    """A sum over studies by another: both ``[N]``."""

    top: np.ndarray
    bottom: np.ndarray

    def statistic(self) -> Statistic:
        """The ratio of the sums."""

        def statistic(weights: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return weights @ self.top / (weights @ self.bottom)

        return statistic

    def take(self, rows: Sequence[int]) -> Ratio:
        """Of some of the studies."""
        return Ratio(self.top[list(rows)], self.bottom[list(rows)])

    def stacked(self, other: Ratio) -> Statistic:
        """The ratio over both."""
        return Ratio(np.concatenate([self.top, other.top]), np.concatenate([self.bottom, other.bottom])).statistic()


@dataclass(frozen=True)
class Counts:
    """F1 from confusions; ``measure`` is macro_f1 or micro_f1. Several targets' are averaged.

    Attributes:
        confusions: A target each.
        measure: Of all of them.
        names: Of each confusion's findings, with their target: two figures are compared on those that both count.
    """

    confusions: tuple[Confusion, ...]
    measure: str
    names: tuple[tuple[str, ...], ...]

    def statistic(self) -> Statistic:
        """The mean over the targets."""
        parts = [getattr(one, self.measure)() for one in self.confusions]
        return lambda weights: np.mean([part(weights) for part in parts], axis=0)

    def take(self, rows: Sequence[int]) -> Counts:
        """Of some of the studies."""
        chosen = list(rows)
        cut = tuple(Confusion(one.tp[chosen], one.fp[chosen], one.fn[chosen]) for one in self.confusions)
        return Counts(cut, self.measure, self.names)

    def of_findings(self, names: Collection[str]) -> Counts:
        """Of some of the findings; a target without any of them is left out."""
        found = []
        for one, known in zip(self.confusions, self.names, strict=True):
            columns = [place for place, name in enumerate(known) if name in names]
            if columns:
                cut = Confusion(one.tp[:, columns], one.fp[:, columns], one.fn[:, columns])
                found.append((cut, tuple(known[place] for place in columns)))
        return Counts(tuple(one for one, _ in found), self.measure, tuple(known for _, known in found))

    def findings(self) -> list[str]:
        """All of them, of every target."""
        return [name for known in self.names for name in known]

    def stacked(self, other: Counts) -> Statistic | None:
        """Over both, where they count the same findings."""
        if self.names != other.names:
            return None
        pairs = zip(self.confusions, other.confusions, strict=True)
        both = tuple(stacked_confusion(one, another) for one, another in pairs)
        return Counts(both, self.measure, self.names).statistic()


@dataclass(frozen=True)
class Areas:
    """Mean area under a curve over findings: truth and scores ``[N, K]``, ``measure`` auroc or auprc, ``names`` of the findings."""

    truth: np.ndarray
    scores: np.ndarray
    measure: str
    names: tuple[str, ...]

    def statistic(self) -> Statistic:
        """The mean over findings."""
        columns = range(self.truth.shape[1])
        return mean_statistic([AREAS[self.measure](self.truth[:, k], self.scores[:, k]) for k in columns])

    def take(self, rows: Sequence[int]) -> Areas:
        """Of some of the studies."""
        return Areas(self.truth[list(rows)], self.scores[list(rows)], self.measure, self.names)

    def of_findings(self, names: Collection[str]) -> Areas:
        """Of some of the findings."""
        columns = [place for place, name in enumerate(self.names) if name in names]
        chosen = tuple(self.names[place] for place in columns)
        return Areas(self.truth[:, columns], self.scores[:, columns], self.measure, chosen)

    def findings(self) -> list[str]:
        """All of them."""
        return list(self.names)

    def stacked(self, other: Areas) -> Statistic | None:
        """Over both, where they count the same findings."""
        if self.names != other.names:
            return None
        both = [np.concatenate(pair) for pair in ((self.truth, other.truth), (self.scores, other.scores))]
        return Areas(both[0], both[1], self.measure, self.names).statistic()


@dataclass(frozen=True)
class Overlap:
    """BLEU, which is no mean over studies: told and true texts, counted again where systems are stacked."""

    told: tuple[str, ...]
    references: tuple[str, ...]
    measure: str
    scorer: TextScorer

    def statistic(self) -> Statistic:
        """The corpus score."""
        return self.scorer.bleu(self.told, self.references)[self.measure]

    def take(self, rows: Sequence[int]) -> Overlap:
        """Of some of the studies."""
        told, references = (tuple(texts[row] for row in rows) for texts in (self.told, self.references))
        return Overlap(told, references, self.measure, self.scorer)

    def stacked(self, other: Overlap) -> Statistic:
        """The corpus score of both."""
        return Overlap(
            self.told + other.told, self.references + other.references, self.measure, self.scorer
        ).statistic()


@dataclass(frozen=True)
class Whole:
    """A figure of the whole set (a Fréchet distance, recall), which cannot be exchanged study by study.

    Attributes:
        function: Of weights ``[R, N]``.
        num: ``N``.
        rows: The studies that count; the others weigh nothing.
        resamples: Of an interval, at most.
    """

    function: Statistic
    num: int
    rows: tuple[int, ...] | None = None
    resamples: int = 1000

    def statistic(self) -> Statistic:
        """The figure."""
        if self.rows is None:
            return self.function
        chosen = list(self.rows)

        def statistic(weights: np.ndarray) -> np.ndarray:
            full = np.zeros((len(weights), self.num))
            full[:, chosen] = weights
            return self.function(full)

        return statistic

    def take(self, rows: Sequence[int]) -> Whole:
        """Of some of the studies."""
        known = range(self.num) if self.rows is None else self.rows
        return Whole(self.function, self.num, tuple(known[row] for row in rows), self.resamples)

    def stacked(self, other: Whole) -> None:
        """There is none."""
        return None


def on_common_findings(*materials: Material) -> list[Material]:
    """The same figures of those findings alone that all of them count; others than of findings stay as they are.

    Raises:
        NotComparableError: If they have no finding in common.
    """
    counted = [set(one.findings()) for one in materials if isinstance(one, Counts | Areas)]
    if not counted:
        return list(materials)
    if not (common := set.intersection(*counted)):
        told = " and ".join(str(len(names)) for names in counted)
        raise NotComparableError(f"they count {told} findings, none of them in common")
    return [one.of_findings(common) if isinstance(one, Counts | Areas) else one for one in materials]


def compare(
    first: Material, second: Material, patients: Sequence[str], seed: int, resamples: int, permutations: int
) -> dict[str, Any]:
    """First against second, study by study, on the same studies: values, difference with interval, p-value (None where there is none).

    Figures of findings are compared on those that both count; ``findings`` says how many, ``findings_left_out`` names the others.

    Returns:
        JSON-ready.

    Raises:
        NotComparableError: If they are not the same figure, or one is not known on these studies, or no interval can be given.
    """
    if type(first) is not type(second):
        raise NotComparableError(f"they are not the same figure: {type(first).__name__} and {type(second).__name__}")
    counted = [set(one.findings()) for one in (first, second) if isinstance(one, Counts | Areas)]
    first, second = on_common_findings(first, second)
    more: dict[str, Any] = {}
    if counted:
        common = set.intersection(*counted)
        more = {"findings": len(common), "findings_left_out": sorted(set.union(*counted) - common)}
    stacked = first.stacked(second)
    if stacked is not None:
        test = paired_test(
            stacked, patients, "compare", seed, num_resamples=resamples, num_permutations=permutations
        ).to_dict()
        _known(test, len(patients))
        return {**test, **more}
    if not isinstance(first, Whole) or not isinstance(second, Whole):
        raise NotComparableError("they cannot be exchanged study by study")
    taken = min(resamples, first.resamples, second.resamples)
    if taken < LEAST_RESAMPLES:
        raise NotComparableError(
            f"an interval of the difference needs at least {LEAST_RESAMPLES} resamples; there are {taken}"
        )
    one, other = first.statistic(), second.statistic()
    ones = np.ones((1, len(patients)))
    difference = paired_difference(one, other, resampling_weights(patients, taken, "compare", seed))
    test = {
        "first": float(one(ones)[0]),
        "second": float(other(ones)[0]),
        "p_value": None,
        "num_studies": len(patients),
        "num_patients": len(set(patients)),
        "difference": difference.to_dict(),
    }
    _known(test, len(patients))
    return test


def _known(test: dict[str, Any], num: int) -> None:
    unknown = [side for side in ("first", "second") if test[side] is None or not np.isfinite(test[side])]
    if unknown:
        raise NotComparableError(f"there is no figure of the {' and '.join(unknown)} on the {num} common studies")
