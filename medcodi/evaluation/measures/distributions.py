"""Distances between the set of generated and the set of real images, in each extractor's features.

A set does not know its order, so shuffled prompts give the same figure: there is no floor. The ceiling is between halves of the
real images, patients kept together; ``halves`` beside it is between the generated images of one half and the real ones of the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medcodi.evaluation.materials import Means, Whole
from medcodi.evaluation.measures.case import Case
from medcodi.evaluation.scores import record
from medcodi.metrics.bootstrap import Interval, bootstrap_interval
from medcodi.metrics.frechet import Moments, frechet_distance
from medcodi.metrics.kernel import kernel_distance, kernel_statistic, mmd2
from medcodi.metrics.prdc import prdc
from medcodi.randomness import numpy_generator

NUM_HALVES = 10
WIDE = 512  # features: above, a Fréchet distance takes seconds, and its interval fewer resamples
WIDE_SAMPLES = 20
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
        moments = merged_moments(real)

        def statistic(weights: np.ndarray, generated: np.ndarray = generated, real: np.ndarray = real) -> np.ndarray:
            pairs = ((Moments.of(generated, one), Moments.of(real, one)) for one in weights)
            return np.array([frechet_distance(*pair, strict=False) for pair in pairs])

        resamples = min(case.options.frechet_samples, WIDE_SAMPLES if dim > WIDE else case.options.frechet_samples)
        material = Whole(statistic, num, resamples=resamples)
        spread = bootstrap_interval(statistic, case.studies.weights[:resamples], centred=True)
        value = Interval(frechet_distance(merged_moments(generated), moments), spread.low, spread.high)
        case.scores.materials[metric] = material
        found: dict[str, float | None] = {"ceiling": None, "halves": None}
        if case.scores.enough(f"{metric}: ceiling", 2 * dim, num, "comparing halves of the real images"):
            between = []
            for first in _halves(case, 2 if dim > WIDE else NUM_HALVES):
                other = merged_moments(real[~first])
                pair = (merged_moments(one[first]) for one in (real, generated))
                between.append([frechet_distance(one, other, strict=False) for one in pair])
            found = dict(zip(found, np.mean(between, 0).tolist(), strict=True))
        case.scores.metrics[metric] = record(value, **found, dim=dim, resamples=resamples)


def score_kernel(case: Case) -> None:
    """Kernel distance, unbiased, over all pairs of studies; beside it as the field takes it, over subsets."""
    for name, generated, real in _features(case):
        metric, num = f"kernel/{name}", len(generated)
        if not case.scores.enough(metric, 4, num, "a kernel distance with its ceiling"):
            continue
        statistic = kernel_statistic(real, generated)
        spread = bootstrap_interval(statistic, case.studies.weights)
        halves = [
            [mmd2(real[~first], real[first]), mmd2(real[~first], generated[first])]
            for first in _halves(case, NUM_HALVES)
            if 2 <= first.sum() <= num - 2
        ]
        ceiling, half = np.mean(halves, 0).tolist() if halves else (None, None)
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
        value = Interval(mmd2(real, generated), spread.low, spread.high)
        case.scores.metrics[metric] = record(value, ceiling=ceiling, halves=half, **subsets)


def score_prdc(case: Case) -> None:
    """Precision, recall, density and coverage."""
    k = case.options.neighbours
    for name, generated, real in _features(case):
        num = len(generated)
        if not case.scores.enough(f"prdc/{name}", k + 1, num, f"a ball that reaches to the {k}th neighbour"):
            continue
        whole = prdc(real, generated, k=k)
        halves = [
            prdc(real[~first], real[first], k=k).to_dict()
            for first in _halves(case, NUM_HALVES)
            if k < first.sum() < num - k
        ]
        for metric in whole.to_dict():
            ceiling = float(np.mean([one[metric] for one in halves])) if halves else None
            case.scores.add(
                f"{metric}/{name}", Means(whole.per_sample[metric]), case.studies.weights, ceiling=ceiling, k=k
            )
