"""Precision, recall, density and coverage of generated features (Kynkäänniemi et al., 2019; Naeem et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from medcodi.errors import DataError
from medcodi.metrics.distances import checked_pair

_BLOCK = 1024  # rows of a distance matrix in memory at once


@dataclass(frozen=True)
class PRDC:
    """How generated samples are spread among the real ones; the ball of a sample reaches to its k-th neighbour in its own set."""

    precision: float  # share of generated samples inside a ball of some real one
    recall: float  # share of real samples inside a ball of some generated one
    density: float  # number of real balls that a generated sample is inside, over k; may exceed 1
    coverage: float  # share of real samples whose ball holds a generated one
    k: int
    # Precision and density float64 [M] of generated samples, recall and coverage [N] of real ones.
    per_sample: dict[str, np.ndarray] = field(repr=False, compare=False, default_factory=dict)

    def to_dict(self) -> dict[str, float]:
        """The four figures."""
        return {name: value for name, value in asdict(self).items() if name not in ("k", "per_sample")}


def prdc(real: np.ndarray, generated: np.ndarray, *, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage of ``[N, D]`` and ``[M, D]``; memory does not grow with their product.

    A sample is not its own neighbour, so a set with fewer than ``k + 1`` samples is a DataError.
    """
    if k < 1:
        raise DataError(f"k is {k}", expected="a neighbour, 1 or more")
    name = f"precision and recall at k = {k}"
    real, generated = checked_pair(real, generated, least=k + 1, metric=name)
    centre = real.mean(0)  # distances lose fewer digits near the origin
    real, generated = real - centre, generated - centre
    real_radius, generated_radius = _radii(real, k), _radii(generated, k)
    # One pass over blocks of real samples.
    balls, nearest = np.zeros(len(generated)), np.full(len(real), np.inf)
    recall = np.zeros(len(real), dtype=bool)
    for start, squared in _distances(real, generated):
        stop = start + len(squared)  # squared: [block, M]
        balls += (squared < real_radius[start:stop, None]).sum(0)
        recall[start:stop] = (squared < generated_radius[None]).any(1)
        nearest[start:stop] = squared.min(1)
    per_sample = {
        "precision": (balls > 0).astype(np.float64),
        "recall": recall.astype(np.float64),
        "density": balls / k,
        "coverage": (nearest < real_radius).astype(np.float64),
    }
    return PRDC(**{name: float(values.mean()) for name, values in per_sample.items()}, k=k, per_sample=per_sample)


def _distances(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Squared distances by blocks of rows: start, ``[block, M]``."""
    norms = (second**2).sum(1)
    for start in range(0, len(first), _BLOCK):
        block = first[start : start + _BLOCK]
        yield start, np.maximum((block**2).sum(1)[:, None] + norms - 2 * block @ second.T, 0.0)


def _radii(features: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th neighbour."""
    radii = np.empty(len(features))
    for start, squared in _distances(features, features):
        rows = np.arange(len(squared))
        squared[rows, start + rows] = 0.0  # rounding may leave more; index 0 of the sorted row is the sample itself
        radii[start : start + len(squared)] = np.partition(squared, k, axis=1)[:, k]
    return radii
