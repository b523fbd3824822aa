"""Fréchet distance between two sets of features, from float64 moments that merge exactly."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.feature_checks import finite_features


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
        if self.mean.shape != other.mean.shape:
            raise DataError(
                f"moments of {self.mean.size} and {other.mean.size} dimensions",
                expected="the same feature extractor for both",
            )
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
    if first.mean.shape != second.mean.shape:
        raise DataError(
            f"features of {first.mean.size} and {second.mean.size} dimensions",
            expected="the same feature extractor for both",
        )
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
