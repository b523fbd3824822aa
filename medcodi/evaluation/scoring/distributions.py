"""Distances between the set of generated and the set of real images, in each extractor's features.

A set does not know its order, so shuffled prompts give the same figure: there is no floor. ``value`` compares all N generated images
with the N real ones of the *same* studies. The ceiling is between halves of the real images, patients kept together: N/2 images against
N/2 of *other* patients. So value and ceiling do not compare; ``halves`` does: the generated images of one half against the real ones of
the other, on the same splits as the ceiling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from medcodi.evaluation.annotations import FEATURES
from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.figures import figure_record
from medcodi.evaluation.scoring.statistics import LEAST_RESAMPLES, MeanStatistic, SetStatistic, StudyStatistic
from medcodi.metrics.bootstrap import Interval, Statistic, bootstrap_interval, weighted_mean
from medcodi.metrics.distances import Moments, frechet_distance, kernel_distance, kernel_statistic, mmd2
from medcodi.metrics.prdc import prdc
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS

NUM_HALVES = 10
WIDE = 512  # features: above, a Fréchet distance takes seconds, so that it has no interval
# A real image is in or out by a system's whole set: there is nothing to exchange study by study.
OF_THE_WHOLE_SET = ("recall", "coverage")
_MERGED_ROWS = 1024  # rows whose moments are computed at once


def _features(case: Case) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Extractor, features of generated and of real images, ``[N, D]`` both."""
    for name, generated in case.generated.arrays.items():
        if name.startswith(FEATURES) and name in case.real.arrays:
            yield name.removeprefix(FEATURES), generated, case.real.arrays[name]


def merged_moments(features: np.ndarray) -> Moments:
    """Moments in float64 of ``[N, D]``, merged in the order of the studies: the same bytes whatever ranks annotated them."""
    moments = Moments.empty(features.shape[1])
    for start in range(0, len(features), _MERGED_ROWS):
        moments = moments.merge(Moments.of(features[start : start + _MERGED_ROWS]))
    return moments


def _halves(case: Case, num: int) -> Iterator[np.ndarray]:
    """Splits of the studies, patients kept together: bool ``[N]``, True in the first half."""
    names, cluster = np.unique(np.asarray(case.studies.patients, dtype=object).astype(str), return_inverse=True)
    for split in range(num):
        order = numpy_generator("halves", case.config.seed, split).permutation(len(names))
        yield (order < len(names) // 2)[cluster]


# ---- Fréchet distance ------------------------------------------------------------------------------------------------
def score_frechet(case: Case) -> None:
    """Fréchet distance of all generated to all real images, for each extractor."""
    for name, generated, real in _features(case):
        num, dim = generated.shape
        metric = f"frechet/{name}"
        if not case.scores.enough(metric, dim, num, f"a Fréchet distance of {dim} features"):
            continue
        statistic = _frechet_statistic(generated, real)
        value = Interval(frechet_distance(merged_moments(generated), merged_moments(real)), np.nan, np.nan)
        # The interval is centred on the figure, because resampling biases the distance.
        resamples = 0 if dim > WIDE else min(case.config.frechet_samples, len(case.studies.weights))
        if resamples >= LEAST_RESAMPLES:
            spread = bootstrap_interval(statistic, case.studies.weights[:resamples], centred=True)
            value = Interval(value.value, spread.low, spread.high)
        else:
            why = f"one of {dim} features takes seconds" if dim > WIDE else "frechet_samples says so"
            reason = f"an interval needs at least {LEAST_RESAMPLES} resamples; {resamples} are taken, because {why}"
            case.scores.leave_out(f"{metric}: interval", reason, LEAST_RESAMPLES, resamples)
        case.scores.statistics[metric] = SetStatistic(statistic, num, resamples=resamples)
        halves = _frechet_halves(case, metric, generated, real)
        case.scores.metrics[metric] = figure_record(value, **halves, dim=dim, resamples=resamples)


def _frechet_statistic(generated: np.ndarray, real: np.ndarray) -> Statistic:
    """The distance as a function of study weights; NaN if these count fewer studies than there are features."""
    dim = generated.shape[1]

    def distance(weights: np.ndarray) -> float:
        if weights.sum() < dim:
            return np.nan
        return frechet_distance(Moments.of(generated, weights), Moments.of(real, weights))

    return lambda weights: np.array([distance(row) for row in weights])


def _frechet_halves(case: Case, metric: str, generated: np.ndarray, real: np.ndarray) -> dict[str, float | None]:
    """``ceiling`` and ``halves``; None if a half of some split has fewer studies than there are features."""
    dim = generated.shape[1]
    splits = list(_halves(case, 2 if dim > WIDE else NUM_HALVES))
    smallest = min(min(int(first.sum()), int((~first).sum())) for first in splits)
    subject = f"comparing halves of the studies (patients kept together) by {dim} features, in the smaller half,"
    if not case.scores.enough(f"{metric}: ceiling", dim, smallest, subject):
        return {"ceiling": None, "halves": None}
    distances = []
    for first in splits:
        other = merged_moments(real[~first])
        distances.append([frechet_distance(merged_moments(each[first]), other) for each in (real, generated)])
    ceiling, halves = np.mean(distances, 0).tolist()
    return {"ceiling": ceiling, "halves": halves}


# ---- kernel distance, precision and recall ---------------------------------------------------------------------------
def score_kernel(case: Case) -> None:
    """Kernel distance, unbiased, over all pairs of different studies; beside it over subsets, as the field has it."""
    for name, generated, real in _features(case):
        metric, num = f"kernel/{name}", len(generated)
        if not case.scores.enough(metric, 4, num, "a kernel distance with its ceiling"):
            continue
        statistic = kernel_statistic(real, generated, study_paired=True)
        spread = bootstrap_interval(statistic, case.studies.weights)
        # Halves: real against real (ceiling), generated against real.
        distances = [
            [mmd2(real[~first], real[first]), mmd2(real[~first], generated[first])]
            for first in _halves(case, NUM_HALVES)
            if 2 <= first.sum() <= num - 2
        ]
        ceiling, halves = np.mean(distances, 0).tolist() if distances else (None, None)
        # Subsets.
        size, subsets = case.config.kernel_subset, {}
        if case.scores.enough(f"{metric}: over subsets of {size}", size, num, "a subset"):
            over_subsets = kernel_distance(
                real, generated, subset_size=size, num_subsets=case.config.kernel_subsets, seed=case.config.seed
            )
            subsets = {"subset_mean": over_subsets.value, "subset_std": over_subsets.std}
        case.scores.statistics[metric] = SetStatistic(statistic, num)
        value = Interval(mmd2(real, generated, study_paired=True), spread.low, spread.high)
        case.scores.metrics[metric] = figure_record(value, ceiling=ceiling, halves=halves, **subsets)


def score_prdc(case: Case) -> None:
    """Precision, recall, density and coverage."""
    k = case.config.neighbours
    for name, generated, real in _features(case):
        num = len(generated)
        if not case.scores.enough(f"prdc/{name}", k + 1, num, f"a ball that reaches to the {k}th neighbour"):
            continue
        figures = prdc(real, generated, k=k)
        halves = [
            [prdc(real[~first], each[first], k=k).to_dict() for each in (real, generated)]
            for first in _halves(case, NUM_HALVES)
            if k < first.sum() < num - k
        ]
        for metric in figures.to_dict():
            pairs = [[each[metric] for each in pair] for pair in halves]
            ceiling, half = np.mean(pairs, 0).tolist() if pairs else (None, None)
            values = figures.per_sample[metric]
            statistic: StudyStatistic = MeanStatistic(values)
            if metric in OF_THE_WHOLE_SET:
                statistic = SetStatistic(weighted_mean(values), num)
            case.scores.add(f"{metric}/{name}", statistic, case.studies.weights, ceiling=ceiling, halves=half, k=k)


# ---- by finding ------------------------------------------------------------------------------------------------------
def score_by_finding(case: Case) -> None:
    """The distances that are chosen, among the studies that truly have a finding: generated against real ones of the same studies."""
    scorers = {"frechet": score_frechet, "kernel": score_kernel, "prdc": score_prdc}
    least = max(case.config.min_positives, case.config.neighbours + 1)
    for column, label in enumerate(CHEXPERT_LABELS):
        rows = np.flatnonzero(case.studies.truth[:, column] == 1)
        if not case.scores.enough(f"by finding: {label}", least, len(rows), "a set of studies with it"):
            continue
        chosen = [case.studies.rows[row] for row in rows]
        studies = replace(case.studies, rows=chosen)
        own = Case(case.target, studies, case.generated.at(chosen), case.real.at(chosen))
        for group in case.config.metrics:
            if group in scorers:
                scorers[group](own)
        case.scores.by_finding[label] = {
            "studies": len(rows),
            "metrics": own.scores.metrics,
            "left_out": own.scores.left_out,
        }
