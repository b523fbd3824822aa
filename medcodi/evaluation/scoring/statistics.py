"""Statistics of studies: figures as functions of study weights, so that they can be resampled, restricted and compared by exchange."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import numpy as np

from medcodi.metrics.bootstrap import Statistic, paired_difference, resampling_weights, weighted_mean
from medcodi.metrics.fields import NUMBERS
from medcodi.metrics.findings import Confusion, auprc_statistic, auroc_statistic, mean_statistic
from medcodi.metrics.paired import paired_test, stacked_confusion
from medcodi.metrics.text import TextScorer

LEAST_RESAMPLES = 100  # of an interval
AREAS = {"auroc": auroc_statistic, "auprc": auprc_statistic}


class NotComparableError(Exception):
    """Why two figures are not compared; the text is for the list of what was left out."""


class StudyStatistic(Protocol):
    """A figure of N studies."""

    def statistic(self) -> Statistic:
        """The figure as a function of study weights, ``[R, N]`` -> ``[R]``."""
        ...

    def take(self, rows: Sequence[int]) -> Self:
        """The same figure of some of the studies."""
        ...

    def stacked(self, other: Self) -> Statistic | None:
        """The figure of two systems' studies, one below the other, for a permutation test; None if there is none."""
        ...


@dataclass(frozen=True)
class _OfArrays:
    """A figure of arrays that have a row for each study."""

    def statistic(self) -> Statistic:
        """The figure as a function of study weights."""
        raise NotImplementedError

    def take(self, rows: Sequence[int]) -> Self:
        """The same for some of the studies."""
        return replace(self, **{name: array[list(rows)] for name, array in self._arrays().items()})

    def stacked(self, other: Self) -> Statistic | None:
        """The figure over both."""
        others = other._arrays()
        return replace(
            self, **{name: np.concatenate([array, others[name]]) for name, array in self._arrays().items()}
        ).statistic()

    def _arrays(self) -> dict[str, np.ndarray]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True)
class MeanStatistic(_OfArrays):
    """A mean over studies: float ``[N]``, NaN if a study has no value."""

    values: np.ndarray

    def statistic(self) -> Statistic:
        """The mean."""
        return weighted_mean(self.values)


@dataclass(frozen=True)
class RatioStatistic(_OfArrays):
    """A sum over studies divided by another: both ``[N]``."""

    top: np.ndarray
    bottom: np.ndarray

    def statistic(self) -> Statistic:
        """The ratio of the sums."""

        def statistic(weights: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return weights @ self.top / (weights @ self.bottom)

        return statistic


@dataclass(frozen=True)
class NumberStatistic(_OfArrays):
    """R² of numbers, or their correlation with the truth: both ``[N]``, NaN if unknown."""

    truth: np.ndarray
    values: np.ndarray
    measure: str  # key of `NUMBERS`

    def statistic(self) -> Statistic:
        """Over the known studies; NaN without any."""
        known = ~np.isnan(self.truth) & ~np.isnan(self.values)
        if not known.any():
            return lambda weights: np.full(len(weights), np.nan)
        function = NUMBERS[self.measure](self.truth[known], self.values[known])

        def statistic(weights: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return function(weights[:, known])

        return statistic


@dataclass(frozen=True)
class F1Statistic:
    """F1 from confusions, averaged over targets."""

    confusions: tuple[Confusion, ...]  # one per target
    measure: str  # `macro_f1` or `micro_f1`
    # of each confusion's findings, with their target: two figures are compared on those that both count
    names: tuple[tuple[str, ...], ...]

    def statistic(self) -> Statistic:
        """The mean over the targets."""
        parts = [getattr(confusion, self.measure)() for confusion in self.confusions]
        return lambda weights: np.mean([part(weights) for part in parts], axis=0)

    def take(self, rows: Sequence[int]) -> F1Statistic:
        """The same for some of the studies."""
        chosen = list(rows)
        cut = tuple(Confusion(c.tp[chosen], c.fp[chosen], c.fn[chosen]) for c in self.confusions)
        return F1Statistic(cut, self.measure, self.names)

    def of_findings(self, names: Collection[str]) -> F1Statistic:
        """The same for some of the findings; a target without any of them is left out."""
        confusions, chosen = [], []
        for confusion, known in zip(self.confusions, self.names, strict=True):
            columns = [column for column, name in enumerate(known) if name in names]
            if columns:
                parts = (confusion.tp[:, columns], confusion.fp[:, columns], confusion.fn[:, columns])
                confusions.append(Confusion(*parts))
                chosen.append(tuple(known[column] for column in columns))
        return F1Statistic(tuple(confusions), self.measure, tuple(chosen))

    def findings(self) -> list[str]:
        """All findings, of every target."""
        return [name for known in self.names for name in known]

    def stacked(self, other: F1Statistic) -> Statistic | None:
        """Over both, if they count the same findings."""
        if self.names != other.names:
            return None
        pairs = zip(self.confusions, other.confusions, strict=True)
        both = tuple(stacked_confusion(first, second) for first, second in pairs)
        return F1Statistic(both, self.measure, self.names).statistic()


@dataclass(frozen=True)
class AreaStatistic(_OfArrays):
    """Mean area under a curve over findings."""

    truth: np.ndarray  # `[N, K]`
    scores: np.ndarray
    measure: str  # `auroc` or `auprc`
    names: tuple[str, ...]  # of the findings

    def statistic(self) -> Statistic:
        """The mean over findings."""
        columns = range(self.truth.shape[1])
        return mean_statistic([AREAS[self.measure](self.truth[:, k], self.scores[:, k]) for k in columns])

    def of_findings(self, names: Collection[str]) -> AreaStatistic:
        """The same for some of the findings."""
        columns = [column for column, name in enumerate(self.names) if name in names]
        chosen = tuple(self.names[column] for column in columns)
        return AreaStatistic(self.truth[:, columns], self.scores[:, columns], self.measure, chosen)

    def findings(self) -> list[str]:
        """All findings."""
        return list(self.names)

    def stacked(self, other: Self) -> Statistic | None:
        """Over both, if they count the same findings."""
        return super().stacked(other) if self.names == other.names else None


@dataclass(frozen=True)
class BleuStatistic:
    """BLEU, which is no mean over studies: texts, counted again when systems are stacked; ``measure`` is ``bleu_1`` … ``bleu_4``."""

    generated: tuple[str, ...]
    references: tuple[str, ...]
    measure: str
    scorer: TextScorer

    def statistic(self) -> Statistic:
        """The corpus score."""
        return self.scorer.bleu(self.generated, self.references)[self.measure]

    def take(self, rows: Sequence[int]) -> BleuStatistic:
        """The same for some of the studies."""
        generated, references = (tuple(texts[row] for row in rows) for texts in (self.generated, self.references))
        return BleuStatistic(generated, references, self.measure, self.scorer)

    def stacked(self, other: BleuStatistic) -> Statistic:
        """The corpus score of both."""
        generated, references = self.generated + other.generated, self.references + other.references
        return BleuStatistic(generated, references, self.measure, self.scorer).statistic()


@dataclass(frozen=True)
class SetStatistic:
    """A figure of the whole set (a Fréchet distance, recall), which cannot be exchanged study by study."""

    function: Statistic  # of weights `[R, N]`
    num: int  # `N`
    rows: tuple[int, ...] | None = None  # the studies that count; the others weigh nothing
    resamples: int = 1000  # at most this many for an interval

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

    def take(self, rows: Sequence[int]) -> SetStatistic:
        """The same for some of the studies."""
        known = range(self.num) if self.rows is None else self.rows
        return SetStatistic(self.function, self.num, tuple(known[row] for row in rows), self.resamples)

    def stacked(self, other: SetStatistic) -> None:
        """There is none."""
        return None


OF_FINDINGS = (F1Statistic, AreaStatistic)


def on_common_findings(*statistics: StudyStatistic) -> list[StudyStatistic]:
    """The same figures, of those findings that all of them count; figures that are not of findings stay as they are.

    Raises:
        NotComparableError: If they have no finding in common.
    """
    counted = [set(figure.findings()) for figure in statistics if isinstance(figure, OF_FINDINGS)]
    if not counted:
        return list(statistics)
    if not (common := set.intersection(*counted)):
        numbers = " and ".join(str(len(names)) for names in counted)
        raise NotComparableError(f"they count {numbers} findings, none of them in common")
    return [figure.of_findings(common) if isinstance(figure, OF_FINDINGS) else figure for figure in statistics]


def compare(
    first: StudyStatistic,
    second: StudyStatistic,
    patients: Sequence[str],
    seed: int,
    resamples: int,
    permutations: int,
) -> dict[str, Any]:
    """Compare two figures of the same studies: values, difference with interval, p-value (None if there is none).

    Figures of findings are compared on those that both count; ``findings`` is their number, ``findings_left_out`` names the others.

    Returns:
        JSON-ready.

    Raises:
        NotComparableError: If they are different kinds of figures, or one is unknown on these studies, or no interval can be given.
    """
    if type(first) is not type(second):
        raise NotComparableError(f"they are not the same figure: {type(first).__name__} and {type(second).__name__}")
    # Restrict figures of findings to the common ones, and name the others.
    counted = [set(figure.findings()) for figure in (first, second) if isinstance(figure, OF_FINDINGS)]
    first, second = on_common_findings(first, second)
    more: dict[str, Any] = {}
    if counted:
        common = set.intersection(*counted)
        more = {"findings": len(common), "findings_left_out": sorted(set.union(*counted) - common)}
    # Exchange the systems study by study, if the figure allows it.
    if (stacked := first.stacked(second)) is not None:
        result = paired_test(stacked, patients, "compare", seed, num_resamples=resamples, num_permutations=permutations)
        return {**_known(result.to_dict(), len(patients)), **more}
    if not isinstance(first, SetStatistic) or not isinstance(second, SetStatistic):
        raise NotComparableError("they cannot be exchanged study by study")
    # Figures of whole sets: only an interval of the difference.
    num_resamples = min(resamples, first.resamples, second.resamples)
    if num_resamples < LEAST_RESAMPLES:
        raise NotComparableError(
            f"an interval of the difference needs at least {LEAST_RESAMPLES} resamples; there are {num_resamples}"
        )
    statistics, ones = (first.statistic(), second.statistic()), np.ones((1, len(patients)))
    difference = paired_difference(*statistics, resampling_weights(patients, num_resamples, "compare", seed))
    result = {
        "first": float(statistics[0](ones)[0]),
        "second": float(statistics[1](ones)[0]),
        "p_value": None,
        "num_studies": len(patients),
        "num_patients": len(set(patients)),
        "difference": difference.to_dict(),
    }
    return _known(result, len(patients))


def _known(result: dict[str, Any], num: int) -> dict[str, Any]:
    """The result, unless a figure in it is unknown."""
    unknown = [side for side in ("first", "second") if result[side] is None or not np.isfinite(result[side])]
    if unknown:
        raise NotComparableError(f"there is no figure of the {' and '.join(unknown)} on the {num} common studies")
    return result
