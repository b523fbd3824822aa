"""What the statistics of simulated studies converge to with endless cases: in closed form, or by quadrature over the case."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.special import ndtr

from medcodi.turing.power.simulation import SCALE, ReaderModel, Readers


class Truth:
    """What the statistics of endlessly many cases would be, for given readers.

    Attributes:
        rating: Probabilities of the ratings, float ``[R, 2, K]`` (arm 0 real, 1 generated).
        score: Probabilities of the signed confidences -5..-1, 1..5, float ``[R, 2, 2K]``.
    """

    def __init__(self, model: ReaderModel, readers: Readers) -> None:
        self.model, self.readers = model, readers
        arm = np.asarray([0.0, 1.0])
        mean = readers.severity[:, None] + arm * readers.shift[:, None]
        self.rating = _category_probabilities(mean, model.cuts)
        signed = np.asarray([*(-np.asarray(model.confidence_cuts))[::-1], 0.0, *model.confidence_cuts])
        evidence = (arm - 0.5) * readers.d_prime[:, None] - readers.criterion[:, None]
        self.score = _category_probabilities(evidence, tuple(signed))

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Truth of each reader, float ``[R]``, by the name of the statistic."""
        half = self.score.shape[2] // 2
        specificity = self.score[:, 0, :half].sum(1)
        sensitivity = self.score[:, 1, half:].sum(1)
        levels = np.arange(1, SCALE + 1)
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "accuracy": (sensitivity + specificity) / 2,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "forced_choice": ndtr(self.readers.d_prime / np.sqrt(2)),
            "d_prime": self.readers.d_prime,
            "criterion": self.readers.criterion,
            "auc": _superiority(self.score[:, 1], self.score[:, 0]),
            "difference": (self.rating[:, 1] - self.rating[:, 0]) @ levels,
            "superiority": _superiority(self.rating[:, 1], self.rating[:, 0]),
        }

    def mean(self, name: str) -> float:
        """Mean over the readers."""
        return float(self.values[name].mean())


def _category_probabilities(mean: np.ndarray, cuts: tuple[float, ...], sd: float = 1.0) -> np.ndarray:
    below = ndtr((np.asarray(cuts) - mean[..., None]) / sd)
    zero, one = np.zeros((*mean.shape, 1)), np.ones((*mean.shape, 1))
    return np.diff(np.concatenate([zero, below, one], axis=-1), axis=-1)


def _superiority(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """P(first > second) + P(equal) / 2 of two ordered categories, ``[R, K]`` each."""
    below = np.cumsum(second, axis=1) - second / 2
    return (first * below).sum(1)


def given_case(model: ReaderModel, readers: Readers, *, detection: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Category probabilities given the case: weights ``[2 Q]`` of (arm, case) nodes, probabilities ``[R, 2 Q, K]``.

    Gauss-Hermite nodes over the case effect; what agreement coefficients of given readers converge to follows from them.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    weights = np.tile(weights / weights.sum() / 2, 2)
    arm, node = np.repeat([0.0, 1.0], 31), np.tile(nodes, 2)
    if detection:
        share = model.detection_case_share
        mean = (arm - 0.5) * readers.d_prime[:, None] + np.sqrt(share) * node - readers.criterion[:, None]
        return weights, _category_probabilities(mean, (0.0,), np.sqrt(1 - share))
    mean = readers.severity[:, None] + arm * readers.shift[:, None] + np.sqrt(model.case_share) * node
    return weights, _category_probabilities(mean, model.cuts, np.sqrt(1 - model.case_share))


def agreement_truth(model: ReaderModel, readers: Readers, *, detection: bool = False) -> dict[str, float]:
    """What the agreement coefficients of given readers converge to with endless cases.

    Returns:
        "cohen" (of the first two; quadratic weights for ratings), "fleiss", "alpha nominal | ordinal | interval".
    """
    weights, given = given_case(model, readers, detection=detection)
    num_readers, _, size = given.shape
    pairs = np.einsum("n,rnk,snl->rskl", weights, given, given)
    off = ~np.eye(num_readers, dtype=bool)
    together = pairs[off].mean(0)  # two different readers' answers to one item
    shares = together.sum(1)
    gap = np.subtract.outer(np.arange(size), np.arange(size)).astype(float) ** 2
    ranks = np.cumsum(shares) - shares / 2
    distances = {
        "nominal": 1.0 - np.eye(size),
        "ordinal": np.subtract.outer(ranks, ranks) ** 2,
        "interval": gap,
    }
    result = {
        f"alpha {name}": float(1 - (together * d).sum() / (np.outer(shares, shares) * d).sum())
        for name, d in distances.items()
    }
    first = pairs[0, 1]
    d = distances["nominal"] if detection else gap
    result["cohen"] = float(1 - (first * d).sum() / (np.outer(first.sum(1), first.sum(0)) * d).sum())
    result["fleiss"] = result["alpha nominal"]
    return result


def icc_truth(model: ReaderModel, readers: Readers | None, *, k: int = 3) -> dict[str, float]:
    """What ICC(3,·) of given readers converges to; of the population of readers (None), ICC(2,·) for ``k`` readers."""
    levels = np.arange(1.0, SCALE + 1)
    if readers is None:
        many = Readers.draw(model, 4000, np.random.default_rng(1))
        weights, given = given_case(model, many)
        means = given @ levels  # [R, N]
        second = (given @ levels**2).mean(0) @ weights
        total = float(second - (means.mean(0) @ weights) ** 2)
        by_case = means.mean(0)
        single = float(weights @ by_case**2 - (weights @ by_case) ** 2) / total
        return {"2,1": single, "2,k": k * single / (1 + (k - 1) * single)}
    weights, given = given_case(model, readers)
    means = given @ levels
    centre = means @ weights
    covariance = (means * weights) @ means.T - np.outer(centre, centre)
    variances = (given @ levels**2) @ weights - centre**2
    off = ~np.eye(len(centre), dtype=bool)
    single = float(covariance[off].mean() / variances.mean())
    size = len(centre)
    return {"3,1": single, "3,k": size * single / (1 + (size - 1) * single)}


def repeat_truth(model: ReaderModel, readers: Readers) -> dict[str, np.ndarray | float]:
    """Chance of each reader to give one item the same rating twice, and quadratic kappa of both answers over all readers."""
    weights, given = given_case(model, readers)
    twice = np.einsum("n,rnk,rnl->rkl", weights, given, given)
    table = twice.mean(0)
    gap = np.subtract.outer(np.arange(SCALE), np.arange(SCALE)).astype(float) ** 2
    kappa = 1 - (table * gap).sum() / (np.outer(table.sum(1), table.sum(0)) * gap).sum()
    return {"same": twice.diagonal(axis1=1, axis2=2).sum(1), "kappa": float(kappa)}
