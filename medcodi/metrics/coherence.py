"""Coherence of jointly generated modalities: agreement of findings in two modalities of a study, retrieval of one latent by the other.

Every figure is meant to be read between its ceiling (real pairs) and its floor (pairs of different patients).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Statistic, known_mean, weighted_mean
from medcodi.metrics.distances import checked_features

RECALLS = (1, 5, 10)
_BLOCK = 1024  # rows of a matrix of similarities in memory at once
_TIE = 1e-12  # cosines that differ by less are equal


@dataclass(frozen=True)
class Contingency:
    """Per study and finding: present in both, in the first only, in the second only, in neither; 0 or 1, each ``[N, K]``."""

    both: np.ndarray
    first: np.ndarray
    second: np.ndarray
    neither: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Contingency:
        """From two annotations of 0 and 1, ``[N, K]``; a pair with NaN in either is left out, other values are a DataError."""
        first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
        if first.shape != second.shape or first.ndim != 2:
            raise DataError(f"annotations of shapes {first.shape} and {second.shape}", expected="[N, K] both")
        known = ~np.isnan(first) & ~np.isnan(second)
        if not (np.isin(first[known], (0, 1)).all() and np.isin(second[known], (0, 1)).all()):
            raise DataError("annotations hold values other than 0, 1 and NaN", fix="resolve uncertain labels first")
        # The four cells of the table; NaN, which equals neither 1 nor 0, is in none.
        cells = ((1, 1), (1, 0), (0, 1), (0, 0))
        return cls(*(((first == one) & (second == other)).astype(np.float64) for one, other in cells))

    @classmethod
    def mean(cls, many: Sequence[Contingency]) -> Contingency:
        """Expected table over several equally likely pairings."""
        parts = ("both", "first", "second", "neither")
        return cls(*(np.mean([getattr(table, part) for table in many], axis=0) for part in parts))

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The four sums over studies for each resample: ``[R, K]`` each."""
        return weights @ self.both, weights @ self.first, weights @ self.second, weights @ self.neither

    def kappa(self, weights: np.ndarray) -> np.ndarray:
        """Cohen's kappa per finding, ``[R, K]``; NaN where chance alone would agree always."""
        both, first, second, neither = self.counts(weights)
        total = both + first + second + neither
        with np.errstate(invalid="ignore", divide="ignore"):
            # kappa = (observed - expected) / (1 - expected), expected from the marginal frequencies (Cohen, 1960)
            observed = (both + neither) / total
            expected = ((both + first) * (both + second) + (neither + first) * (neither + second)) / total**2
            return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)

    def f1(self, weights: np.ndarray) -> np.ndarray:
        """F1 of one annotation against the other (symmetric) per finding, ``[R, K]``; NaN where no study has it in either."""
        both, first, second, _ = self.counts(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return 2 * both / (2 * both + first + second)

    def agreement(self, weights: np.ndarray) -> np.ndarray:
        """Share of studies in which both annotations are the same, per finding, ``[R, K]``."""
        both, first, second, neither = self.counts(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (both + neither) / (both + first + second + neither)

    def macro(self, measure: str) -> Statistic:
        """Mean over findings of ``"kappa"``, ``"f1"`` or ``"agreement"``, NaN left out."""
        per_finding: Callable[[np.ndarray], np.ndarray] = getattr(self, measure)

        return lambda weights: known_mean(per_finding(np.asarray(weights, dtype=np.float64)), 1)

    def per_finding(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Name of each of the ``K`` findings -> kappa, f1, agreement, first (its positives), second, studies."""
        if self.both.shape[1] != len(names):
            raise DataError(f"annotations of {self.both.shape[1]} findings and {len(names)} names", expected="as many")
        ones = np.ones((1, len(self.both)))
        measures = {name: getattr(self, name)(ones)[0] for name in ("kappa", "f1", "agreement")}
        both, only_first, only_second, neither = (part[0] for part in self.counts(ones))
        return {
            name: {
                **{measure: float(values[k]) for measure, values in measures.items()},
                "first": float(both[k] + only_first[k]),
                "second": float(both[k] + only_second[k]),
                "studies": float(both[k] + only_first[k] + only_second[k] + neither[k]),
            }
            for k, name in enumerate(names)
        }


@dataclass(frozen=True)
class Retrieval:
    """Ranks of the own partner among all candidates."""

    median_rank: float  # 1 is best; chance gives about half of the number of candidates
    recall: dict[int, float]  # k -> share of queries whose partner is among the first k
    ranks: np.ndarray = field(repr=False, compare=False)  # float64 [N]; equal similarities share their mean rank

    def recall_statistic(self, k: int) -> Statistic:
        """Recall at k as a function of query weights; the candidates stay all of them."""
        return weighted_mean((self.ranks <= k).astype(np.float64))

    def median_statistic(self) -> Statistic:
        """The weighted median of the ranks."""
        order = np.argsort(self.ranks, kind="stable")
        sorted_ranks = self.ranks[order]

        def statistic(weights: np.ndarray) -> np.ndarray:
            # The weighted median: where the cumulative weight reaches half; the mean of two ranks where it meets half exactly.
            summed = np.asarray(weights, dtype=np.float64)[:, order].cumsum(1)
            half = summed[:, -1:] / 2
            low = sorted_ranks[np.minimum((summed < half).sum(1), len(order) - 1)]
            high = sorted_ranks[np.minimum((summed <= half).sum(1), len(order) - 1)]
            return (low + high) / 2

        return statistic


def retrieval(first: np.ndarray, second: np.ndarray, *, recalls: Sequence[int] = RECALLS) -> Retrieval:
    """Rank of each study's second latent among all second latents, by cosine similarity to its first; both ``[N, D]``.

    Raises:
        DataError: If shapes differ, there are fewer than 2 studies, or a latent is not finite or zero.
    """
    ranks = partner_ranks(first, second, [np.arange(len(first))])[0]
    return Retrieval(float(np.median(ranks)), {k: float((ranks <= k).mean()) for k in recalls}, ranks)


def partner_ranks(first: np.ndarray, second: np.ndarray, partners: Sequence[np.ndarray]) -> np.ndarray:
    """Rank of a partner of each query among all candidates, for several pairings of the same latents: float64 ``[P, N]``.

    Args:
        first: ``[N, D]``: queries.
        second: ``[N, D]``: candidates.
        partners: ``P`` times int ``[N]``: the row of each query's partner.
    """
    first, second = _direction_pair(first, second)
    ranks = np.empty((len(partners), len(first)))
    for start in range(0, len(first), _BLOCK):
        similarity = first[start : start + _BLOCK] @ second.T  # [block, N], cosines
        rows = np.arange(len(similarity))
        # Equal similarities share their mean rank.
        for pairing, partner in enumerate(partners):
            own = similarity[rows, partner[start : start + len(rows)]][:, None]
            nearer, as_near = (similarity > own + _TIE).sum(1), (np.abs(similarity - own) <= _TIE).sum(1)
            ranks[pairing, start : start + len(rows)] = 1 + nearer + (as_near - 1) / 2
    return ranks


def pair_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarity of each study's two latents: float64 ``[N]``."""
    first, second = _direction_pair(first, second)
    return (first * second).sum(1)


def _direction_pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of latents at unit length, of one shape."""
    first, second = _directions(first), _directions(second)
    if first.shape != second.shape:
        raise DataError(f"latents of shapes {first.shape} and {second.shape}", expected="[N, D] both, in one space")
    return first, second


def _directions(latents: np.ndarray) -> np.ndarray:
    latents = checked_features(latents, "latent", least=2, metric="retrieval")
    norms = np.linalg.norm(latents, axis=1, keepdims=True)
    if (norms == 0).any():
        raise DataError(
            f"{int((norms == 0).sum())} latents are zero, the first is row {int(np.flatnonzero(norms[:, 0] == 0)[0])}",
            expected="vectors with a direction",
            fix="look at the samples they come from",
        )
    return latents / norms


def correlation_statistic(first: np.ndarray, second: np.ndarray) -> Statistic:
    """Pearson's correlation of two numbers per study, ``[N]`` each, as a function of weights; NaN where one is constant."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"numbers of shapes {first.shape} and {second.shape}", expected="[N] both")
    # Centred first: the variances below lose fewer digits.
    first, second = first - first.mean(), second - second.mean()

    def statistic(weights: np.ndarray) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        total = weights.sum(1)
        means = weights @ first / total, weights @ second / total
        spread = weights @ first**2 / total - means[0] ** 2, weights @ second**2 / total - means[1] ** 2
        shared = weights @ (first * second) / total - means[0] * means[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            return shared / np.sqrt(spread[0] * spread[1])

    return statistic
