"""Distances between two sets of features: Fréchet, from float64 moments that merge exactly, and kernel (KID); and the checks of a set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Statistic
from medcodi.randomness import Key, numpy_generator


# ---- checks of feature sets: shape, finite values, enough samples, one extractor ---------------------------------------
def finite_features(features: np.ndarray, name: str = "") -> np.ndarray:
    """Features as float64 ``[N, D]``; another shape, NaN or infinity is a DataError that names the set."""
    features, name = np.asarray(features, dtype=np.float64), f"{name} " if name else ""
    if features.ndim != 2 or not features.shape[1]:
        raise DataError(f"{name}features of shape {features.shape}", expected="[N, D], one row a sample")
    # A sample is never left out silently: the caller decides.
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} of {len(features)} {name}feature vectors hold NaN or infinity, the first is row {bad[0]}",
            expected="finite features",
            fix="look at the samples they come from; none is left out silently",
        )
    return features


def checked_features(features: np.ndarray, name: str, *, least: int, metric: str) -> np.ndarray:
    """Finite features of at least ``least`` samples, which ``metric`` needs; a message names the set: "generated", "real"."""
    features = finite_features(features, name)
    if len(features) < least:
        raise DataError(
            f"{metric} of only {len(features)} {name} samples",
            expected=f"at least {least}",
            fix=f"score at least {least} studies, or choose a metric that needs fewer",
        )
    return features


def checked_pair(first: np.ndarray, second: np.ndarray, *, least: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Real and generated features, each checked by :func:`checked_features`, of one length."""
    first = checked_features(first, "real", least=least, metric=metric)
    second = checked_features(second, "generated", least=least, metric=metric)
    _check_dimensions(first.shape[1], second.shape[1])
    return first, second


def _check_dimensions(first: int, second: int) -> None:
    if first != second:
        raise DataError(f"features of {first} and {second} dimensions", expected="the same feature extractor for both")


# ---- Fréchet distance ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of a set of feature vectors, in float64.

    Two sets merge by the pairwise update of Chan, Golub and LeVeque (1979), so shards and ranks give what one pass gives,
    to rounding; Fréchet distances of shards are never averaged.
    """

    count: float  # number of vectors, or sum of their weights
    mean: np.ndarray  # float64 [D]
    scatter: np.ndarray  # float64 [D, D], the sum of outer products of the centred vectors

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Moments of no vectors of length ``dim``: the neutral element of :meth:`merge`."""
        return cls(0.0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, features: np.ndarray, weights: np.ndarray | None = None) -> Moments:
        """Moments of ``features``, ``[N, D]`` of any float type, each counted ``weights`` times, ``[N]`` (None: once)."""
        features = finite_features(features)
        weights = np.ones(len(features)) if weights is None else np.asarray(weights, dtype=np.float64)
        # Centred before squares are taken, so that a large mean costs no digits.
        count = float(weights.sum())
        if count == 0:
            return cls.empty(features.shape[1])
        mean = weights @ features / count
        centred = features - mean
        return cls(count, mean, (centred * weights[:, None]).T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together."""
        _check_dimensions(self.mean.size, other.mean.size)
        count = self.count + other.count
        if count == 0:
            return self
        # S = S1 + S2 + (n1 n2 / n) d d', d the difference of the means.
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        return Moments(
            count, mean, self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        )

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance, float64 ``[D, D]``."""
        return self.scatter / (self.count - 1)


def frechet_distance(first: Moments, second: Moments, *, strict: bool = True) -> float:
    """Squared Fréchet (2-Wasserstein) distance of the Gaussians with these moments (Dowson and Landau, 1982; FID of Heusel et al., 2017).

    ``|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))``; the last trace is the sum of the square roots of the eigenvalues of
    ``C1 C2``, which are those of the symmetric ``C1^(1/2) C2 C1^(1/2)``.

    Raises:
        DataError: If a set has fewer than 2 samples, or fewer samples than dimensions (a warning unless ``strict``).
    """
    dim, fewest = first.mean.size, int(min(first.count, second.count))
    _check_dimensions(dim, second.mean.size)
    if fewest < 2 or fewest < dim:
        problem = f"the Fréchet distance of {dim}-dimensional features of only {fewest} samples"
        expected = f"at least {max(dim, 2)} samples in each set, so that the covariance can have full rank"
        if strict or fewest < 2:
            raise DataError(problem, expected=expected, fix=f"score at least {max(dim, 2)} studies")
        warnings.warn(f"{problem}; expected {expected}. The number is not comparable to others.", stacklevel=2)
    # C1^(1/2) by its eigenvectors, then the square roots of the eigenvalues of C1^(1/2) C2 C1^(1/2); rounding may put one below 0.
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second.covariance @ root), 0, None)).sum()
    gap = first.mean - second.mean
    return float(max(gap @ gap + np.trace(first.covariance) + np.trace(second.covariance) - 2 * cross, 0.0))


# ---- kernel distance: the squared maximum mean discrepancy, unbiased, of a cubic kernel --------------------------------
COEF0 = 1.0
_BLOCK = 1024  # rows of a kernel matrix in memory at once
_METRIC = "the kernel distance"

Subset = tuple[np.ndarray, np.ndarray]


def polynomial_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``(x · y / D + 1)^3`` of every pair: ``[N, D], [M, D] -> [N, M]`` (Bińkowski et al., 2018, section 4)."""
    return _cubed(first @ second.T / first.shape[1] + COEF0)


def _cubed(values: np.ndarray) -> np.ndarray:
    return values * values * values  # ``** 3`` goes through pow, many times as slow


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance, as the field reports it."""

    value: float  # mean over subsets of the unbiased estimate; it may be slightly below 0 where the sets agree
    std: float  # over subsets (population); it is no interval of the value
    subset_size: int  # samples of each set in a subset
    num_subsets: int


def mmd2(real: np.ndarray, generated: np.ndarray, *, study_paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy of two whole sets, ``[N, D]`` and ``[M, D]``, each of at least 2 rows.

    Args:
        real: One set.
        generated: The other.
        study_paired: Row ``i`` of both is of study ``i``, so these two depend on each other: the cross term leaves them out,
            because it is unbiased over independent pairs only (Gretton et al., 2012, eq. 4: the U-statistic of paired sets).
    """
    real, generated = checked_pair(real, generated, least=2, metric=_METRIC)
    if study_paired:
        _check_paired(real, generated)
    # E k(x, x') + E k(y, y') - 2 E k(x, y)
    return _within(real) + _within(generated) - 2 * _between(real, generated, study_paired)


def _check_paired(real: np.ndarray, generated: np.ndarray) -> None:
    if len(real) != len(generated):
        raise DataError(f"{len(real)} real and {len(generated)} generated samples", expected="one of each a study")


def _same_row(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The kernel of row ``i`` with row ``i``: ``[N]``."""
    return _cubed((first * second).sum(1) / first.shape[1] + COEF0)


def _within(features: np.ndarray) -> float:
    """Mean kernel of all pairs of different rows."""
    num = len(features)
    # All pairs, less the diagonal.
    total = sum(polynomial_kernel(features[s : s + _BLOCK], features).sum() for s in range(0, num, _BLOCK))
    return float((total - _same_row(features, features).sum()) / (num * (num - 1)))


def _between(first: np.ndarray, second: np.ndarray, study_paired: bool) -> float:
    total = sum(polynomial_kernel(first[s : s + _BLOCK], second).sum() for s in range(0, len(first), _BLOCK))
    if study_paired:
        return float((total - _same_row(first, second).sum()) / (len(first) * (len(first) - 1)))
    return float(total / (len(first) * len(second)))


def draw_subsets(num_real: int, num_generated: int, size: int, num: int, *keys: Key) -> Iterator[Subset]:
    """Rows of ``num`` subsets, without repetition inside one: int ``[size]`` of the real and of the generated set.

    Subset ``i`` depends on the keys of the randomness and on ``i`` alone.
    """
    for index in range(num):
        generator = numpy_generator("kernel subsets", *keys, index)
        yield (
            generator.choice(num_real, size, replace=False),
            generator.choice(num_generated, size, replace=False),
        )


def kernel_distance(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    subset_size: int = 1000,
    num_subsets: int = 100,
    seed: int = 0,
    subsets: Sequence[Subset] | None = None,
) -> KernelDistance:
    """Kernel distance as the field takes it: the mean over random subsets of the unbiased estimate, all cross pairs counted.

    ``subsets`` gives the rows of each subset instead of drawing them by ``seed``. A set with fewer than ``subset_size`` samples is a
    DataError.
    """
    if subset_size < 2 or num_subsets < 1:
        raise DataError(
            f"{num_subsets} subsets of {subset_size} samples", expected="at least 1 subset of at least 2 samples"
        )
    # Given subsets decide their own size.
    least = max(2, subset_size) if subsets is None else 2
    metric = f"{_METRIC} over subsets of {subset_size}" if subsets is None else _METRIC
    real, generated = checked_pair(real, generated, least=least, metric=metric)
    chosen = subsets or draw_subsets(len(real), len(generated), subset_size, num_subsets, seed)
    values = np.array([mmd2(real[rows], generated[others]) for rows, others in chosen])
    size = subset_size if subsets is None else len(subsets[0][0])
    return KernelDistance(float(values.mean()), float(values.std()), size, len(values))


def kernel_statistic(real: np.ndarray, generated: np.ndarray, *, study_paired: bool = False) -> Statistic:
    """The kernel distance of two sets of equal size as a function of study weights, for bootstrap intervals.

    The weight of row ``i`` counts in both sets. Pairs of a row with its own repetition are left out of each set, as a row
    with itself is, so that resampling does not add the bias of duplicates. A row of ones gives :func:`mmd2` of the same
    ``study_paired``.
    """
    real, generated = checked_pair(real, generated, least=2, metric=_METRIC)
    _check_paired(real, generated)

    def statistic(weights: np.ndarray) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        total, squares = weights.sum(1), (weights**2).sum(1)
        inside, across = np.zeros(len(weights)), np.zeros(len(weights))
        for start in range(0, len(real), _BLOCK):
            # Kernels within the sets without their diagonals, [block, N].
            rows = slice(start, start + _BLOCK)
            within = polynomial_kernel(real[rows], real) + polynomial_kernel(generated[rows], generated)
            places = np.arange(len(within))
            within[places, start + places] = 0.0
            # Kernels between the sets.
            between = polynomial_kernel(real[rows], generated)
            if study_paired:
                between[places, start + places] = 0.0
            # Weighted sums of each resample: w' K w.
            inside += ((weights @ within.T) * weights[:, rows]).sum(1)
            across += ((weights @ between.T) * weights[:, rows]).sum(1)
        return inside / (total**2 - squares) - 2 * across / (total**2 - squares * study_paired)

    return statistic
