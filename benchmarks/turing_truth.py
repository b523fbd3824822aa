"""Limits of the agreement statistics of simulated readers as the number of cases grows, and two methods that the product does not use.

``turing_statistics.py`` measures with them how often the intervals cover; the unit tests of the statistics hold against them.
"""

from __future__ import annotations

import numpy as np
from scipy.special import fdtri

from medcodi.randomness import Key, numpy_generator
from medcodi.turing.power.simulation import SCALE, ReaderModel, SimulatedReaders, category_probabilities
from medcodi.turing.statistics.agreement import mean_squares
from medcodi.turing.statistics.resampling import Cases, ReaderStatistic


def given_case(
    model: ReaderModel, readers: SimulatedReaders, *, detection: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Category probabilities given the case: weights ``[2 Q]`` of (arm, case) nodes, probabilities ``[R, 2 Q, K]``.

    Gauss-Hermite nodes over the case effect; what agreement coefficients of given readers converge to follows from them.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    weights = np.tile(weights / weights.sum() / 2, 2)
    arm, node = np.repeat([0.0, 1.0], 31), np.tile(nodes, 2)
    if detection:
        share = model.detection_case_share
        mean = (arm - 0.5) * readers.d_prime[:, None] + np.sqrt(share) * node - readers.criterion[:, None]
        return weights, category_probabilities(mean, (0.0,), np.sqrt(1 - share))
    mean = readers.severity[:, None] + arm * readers.shift[:, None] + np.sqrt(model.case_share) * node
    return weights, category_probabilities(mean, model.cuts, np.sqrt(1 - model.case_share))


def agreement_truth(model: ReaderModel, readers: SimulatedReaders, *, detection: bool = False) -> dict[str, float]:
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


def icc_truth(model: ReaderModel, readers: SimulatedReaders | None, *, k: int = 3) -> dict[str, float]:
    """What ICC(3,·) of given readers converges to; of the population of readers (None), ICC(2,·) for ``k`` readers."""
    levels = np.arange(1.0, SCALE + 1)
    if readers is None:
        many = SimulatedReaders.draw(model, 4000, np.random.default_rng(1))
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


def repeat_truth(model: ReaderModel, readers: SimulatedReaders) -> dict[str, np.ndarray | float]:
    """Chance of each reader to give one item the same rating twice, and quadratic kappa of both answers over all readers."""
    weights, given = given_case(model, readers)
    twice = np.einsum("n,rnk,rnl->rkl", weights, given, given)
    table = twice.mean(0)
    gap = np.subtract.outer(np.arange(SCALE), np.arange(SCALE)).astype(float) ** 2
    kappa = 1 - (table * gap).sum() / (np.outer(table.sum(1), table.sum(0)) * gap).sum()
    return {"same": twice.diagonal(axis1=1, axis2=2).sum(1), "kappa": float(kappa)}


def icc_satterthwaite(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """ICC(2,1) of complete ratings ``[R, I]`` with bounds by Satterthwaite's F (McGraw & Wong 1996), as other programs give it.

    With three readers it covers too little; the product uses a generalized interval.
    """
    m, upper = mean_squares(values.T), 0.5 + level / 2
    n, k = m.n, m.k
    items = (m.between - m.error) / k
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(np.divide(items, items + (m.readers - m.error) / n + m.error))
    if not np.isfinite(value):
        return float("nan"), float("nan"), float("nan")
    a = k * value / (n * (1 - value)) if value < 1 else np.inf
    if not np.isfinite(a):
        return 1.0, 1.0, 1.0
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    top = (a * m.readers + b * m.error) ** 2
    bottom = (a * m.readers) ** 2 / (k - 1) + (b * m.error) ** 2 / ((n - 1) * (k - 1))
    df = top / bottom if bottom > 0 else 1.0
    f_low, f_high = fdtri(n - 1, df, upper), fdtri(df, n - 1, upper)
    spread = k * m.readers + (k * n - k - n) * m.error
    low = n * (m.between - f_low * m.error) / (f_low * spread + n * m.between)
    high = n * (f_high * m.between - m.error) / (spread + n * f_high * m.between)
    return float(value), float(low), float(high)


def percentile_two_way(
    statistic: ReaderStatistic, cases: Cases, *keys: Key, num_resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """The naive two-way bootstrap: readers and cases drawn with replacement, percentiles of the mean."""
    drawn = statistic(cases.draws(num_resamples, *keys))
    num_readers = drawn.shape[1]
    chosen = numpy_generator("turing readers", *keys).integers(0, num_readers, size=drawn.shape)
    means = np.take_along_axis(drawn, chosen, axis=1).mean(1)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
