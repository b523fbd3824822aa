"""Distances between the set of generated and the set of real images, in each extractor's features.

A set does not know its order, so shuffled prompts give the same figure: there is no floor. ``value`` sets all N generated images
beside the N real ones of the *same* studies. The ceiling is between halves of the real images, patients kept together: N/2 images
beside N/2 of *other* patients. So value and ceiling do not compare; ``halves`` does: the generated images of one half beside the real
ones of the other, on the same splits as the ceiling.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medcodi.evaluation.materials import LEAST_RESAMPLES, Material, Means, Whole
from medcodi.evaluation.measures.case import Case
from medcodi.evaluation.scores import record
from medcodi.metrics.bootstrap import Interval, Statistic, bootstrap_interval, weighted_mean
from medcodi.metrics.frechet import Moments, frechet_distance
from medcodi.metrics.kernel import kernel_distance, kernel_statistic, mmd2
from medcodi.metrics.prdc import prdc
from medcodi.randomness import numpy_generator

NUM_HALVES = 10
WIDE = 512  # features: above, a Fréchet distance takes seconds, so that there is no interval of it
# A real image is in or out by a system's whole set: there is nothing to exchange study by study.
OF_THE_WHOLE = ("recall", "coverage")
_MERGED = 1024  # rows whose moments are taken at once
_PREFIX = "features/"


def _features(case: Case) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for name, generated in case.generated.arrays.items():
        if name.startswith(_PREFIX) and name in case.real.arrays:
            yield name.removeprefix(_PREFIX), generated, case.real.arrays[name]


def merged_moments(features: np.ndarray) -> Moments:
    """Moments in float64, block by block in the order of the studies: the same bytes whatever ranks read the blocks."""
    moments = Moments.empty(features.shape[1])
    for start in range(0, len(features), _MERGED):
        moments = moments.merge(Moments.of(features[start : start + _MERGED]))
    return moments


def _halves(case: Case, num: int) -> Iterator[np.ndarray]:
    """Which studies are in the first half, bool ``[N]``, patients kept together."""
    names, cluster = np.unique(np.asarray(case.studies.patients, dtype=object).astype(str), return_inverse=True)
    for split in range(num):
        order = numpy_generator("halves", case.options.seed, split).permutation(len(names))
        yield (order < len(names) // 2)[cluster]


def score_frechet(case: Case) -> None:
    """Fréchet distance of all generated to all real images, for each extractor."""
    for name, generated, real in _features(case):
        num, dim = generated.shape
        metric = f"frechet/{name}"
        if not case.scores.enough(metric, dim, num, f"a Fréchet distance of {dim} features"):
            continue
        statistic = _frechet_statistic(generated, real)
        weights = case.studies.weights
        resamples = 0 if dim > WIDE else min(case.options.frechet_samples, len(weights))
        value = Interval(frechet_distance(merged_moments(generated), merged_moments(real)), np.nan, np.nan)
        if resamples >= LEAST_RESAMPLES:
            spread = bootstrap_interval(statistic, weights[:resamples], centred=True)
            value = Interval(value.value, spread.low, spread.high)
        else:
            why = f"one of {dim} features takes seconds" if dim > WIDE else "frechet_samples says so"
            case.scores.leave_out(
                f"{metric}: interval",
                f"an interval needs at least {LEAST_RESAMPLES} resamples; {resamples} are taken, for {why}",
                LEAST_RESAMPLES,
                resamples,
            )
        case.scores.materials[metric] = Whole(statistic, num, resamples=resamples)
        found = _frechet_halves(case, metric, generated, real)
        case.scores.metrics[metric] = record(value, **found, dim=dim, resamples=resamples)


def _frechet_statistic(generated: np.ndarray, real: np.ndarray) -> Statistic:
    """The distance as a function of study weights; NaN where these count fewer studies than there are features."""
    dim = generated.shape[1]

    def of(weights: np.ndarray) -> float:
        if weights.sum() < dim:
            return np.nan
        return frechet_distance(Moments.of(generated, weights), Moments.of(real, weights))

    return lambda weights: np.array([of(one) for one in weights])


def _frechet_halves(case: Case, metric: str, generated: np.ndarray, real: np.ndarray) -> dict[str, float | None]:
    """``ceiling`` and ``halves``; None where one half of some split has fewer studies than there are features."""
    dim = generated.shape[1]
    splits = list(_halves(case, 2 if dim > WIDE else NUM_HALVES))
    smallest = min(min(int(first.sum()), int((~first).sum())) for first in splits)
    why = f"comparing halves of the studies (patients kept together) by {dim} features, in the smaller half,"
    if not case.scores.enough(f"{metric}: ceiling", dim, smallest, why):
        return {"ceiling": None, "halves": None}
    between = []
    for first in splits:
        other = merged_moments(real[~first])
        between.append([frechet_distance(merged_moments(one[first]), other) for one in (real, generated)])
    ceiling, halves = np.mean(between, 0).tolist()
    return {"ceiling": ceiling, "halves": halves}


def score_kernel(case: Case) -> None:
    """Kernel distance, unbiased: over all pairs of different studies; beside it as the field takes it, over subsets."""
    for name, generated, real in _features(case):
        metric, num = f"kernel/{name}", len(generated)
        if not case.scores.enough(metric, 4, num, "a kernel distance with its ceiling"):
            continue
        statistic = kernel_statistic(real, generated, study_paired=True)
        spread = bootstrap_interval(statistic, case.studies.weights)
        between = [
            [mmd2(real[~first], real[first]), mmd2(real[~first], generated[first])]
            for first in _halves(case, NUM_HALVES)
            if 2 <= first.sum() <= num - 2
        ]
        ceiling, halves = np.mean(between, 0).tolist() if between else (None, None)
        size = case.options.kernel_subset
        subsets = {}
        if num >= size:
            told = kernel_distance(
                real, generated, subset_size=size, num_subsets=case.options.kernel_subsets, seed=case.options.seed
            )
            subsets = {"subset_mean": told.value, "subset_std": told.std}
        else:
            case.scores.enough(f"{metric}: over subsets of {size}", size, num, "a subset")
        case.scores.materials[metric] = Whole(statistic, num)
        value = Interval(mmd2(real, generated, study_paired=True), spread.low, spread.high)
        case.scores.metrics[metric] = record(value, ceiling=ceiling, halves=halves, **subsets)


def score_prdc(case: Case) -> None:
    """Precision, recall, density and coverage."""
    k = case.options.neighbours
    for name, generated, real in _features(case):
        num = len(generated)
        if not case.scores.enough(f"prdc/{name}", k + 1, num, f"a ball that reaches to the {k}th neighbour"):
            continue
        whole = prdc(real, generated, k=k)
        between = [
            [prdc(real[~first], one[first], k=k).to_dict() for one in (real, generated)]
            for first in _halves(case, NUM_HALVES)
            if k < first.sum() < num - k
        ]
        for metric in whole.to_dict():
            told = np.mean([[one[metric] for one in pair] for pair in between], 0).tolist() if between else (None, None)
            values = whole.per_sample[metric]
            made: Material = Whole(weighted_mean(values), num) if metric in OF_THE_WHOLE else Means(values)
            case.scores.add(f"{metric}/{name}", made, case.studies.weights, ceiling=told[0], halves=told[1], k=k)
