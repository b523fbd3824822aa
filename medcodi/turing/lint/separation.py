"""What the lint judges by: areas under the curve with intervals that hold at the ends, and a small classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from medcodi.randomness import numpy_generator

ALPHA = 0.01  # of a false alarm in a whole clean bundle, shared among all that is tested


@dataclass(frozen=True)
class Auc:
    """How well something tells the arms apart: 0.5 not at all, 1 (or 0) always."""

    value: float  # probability that a generated one scores above a real one, ties half
    low: float  # of the interval
    high: float  # of the interval
    num_real: int  # real ones
    num_generated: int  # generated ones

    @property
    def separates(self) -> bool:
        """Whether the interval leaves out 0.5."""
        return self.low > 0.5 or self.high < 0.5

    @property
    def strength(self) -> float:
        """The same on either side: from 0.5 to 1."""
        return max(self.value, 1 - self.value)

    def words(self) -> str:
        """For tables."""
        return f"AUC {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc_of(scores: np.ndarray, generated: np.ndarray, level: float = 0.95) -> Auc:
    """Area under the ROC curve of a score, with its interval.

    The interval is Newcombe's method 5 (Statistics in Medicine 2006; 25: 559-573): a score interval with Hanley and McNeil's variance,
    which keeps a width at 0 and 1, where the variance itself vanishes.

    Args:
        scores: ``[N]``.
        generated: bool ``[N]``.
        level: Coverage.
    """
    scores, generated = np.asarray(scores, dtype=np.float64), np.asarray(generated, dtype=bool)
    m, n = int(generated.sum()), int((~generated).sum())
    if m == 0 or n == 0:
        return Auc(0.5, 0.0, 1.0, n, m)
    value = float((rankdata(scores)[generated].sum() - m * (m + 1) / 2) / (m * n))
    z = float(norm.ppf((1 + level) / 2))
    middle = (m + n) / 2

    def squared_distance(theta: float) -> float:
        spread = 1 + (middle - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (m * n)

    inner = min(max(value, 1e-9), 1 - 1e-9)  # at 0 and 1 the distance is 0 on the spot: the other root is sought
    low: Any = brentq(squared_distance, 0.0, inner) if value > 0 else 0.0
    high: Any = brentq(squared_distance, inner, 1.0) if value < 1 else 1.0
    return Auc(value, float(low), float(high), n, m)


def classifier_scores(
    features: np.ndarray, generated: np.ndarray, groups: Sequence[str], *, ridge: float = 1.0
) -> np.ndarray:
    """Out-of-fold scores of a ridge discriminant: each group is scored by a classifier that has not seen it.

    Args:
        features: float ``[N, D]``.
        generated: bool ``[N]``.
        groups: Patient of each, so that two items of one stay together.
        ridge: Penalty, in units of the number of rows.

    Returns:
        float ``[N]``, higher: more like the generated arm.
    """
    features = np.nan_to_num(np.asarray(features, dtype=np.float64))
    target = np.where(generated, 1.0, -1.0)
    names, cluster = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    fold = numpy_generator("turing-lint-folds", len(names)).permutation(len(names))[cluster] % min(10, len(names))
    scores = np.zeros(len(target))
    for held in np.unique(fold):
        train, test = fold != held, fold == held
        if not train.any() or generated[train].all() or not generated[train].any():
            continue
        mean, spread = features[train].mean(0), features[train].std(0)
        used = spread > 1e-12
        if not used.any():
            continue
        x = (features[:, used] - mean[used]) / spread[used]
        centred = target[train] - target[train].mean()
        kernel = x[train] @ x[train].T / x.shape[1]  # the dual form: as many unknowns as rows, however many features
        weights = np.linalg.solve(kernel + ridge * np.eye(int(train.sum())) * 0.1, centred)
        scores[test] = x[test] @ x[train].T / x.shape[1] @ weights
    return scores
