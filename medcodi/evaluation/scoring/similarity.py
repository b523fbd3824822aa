"""Likeness of generated contents to the true ones and to each other, one by one and as a set; and flags of odd contents.

One by one: SSIM, PSNR, MS-SSIM, overlap of texts. As a set: distances in the features of each extractor.

A set does not know its order, so shuffled prompts give the same distance: there is no floor. ``value`` compares all N generated images
with the N real ones of the *same* studies. The ceiling is between halves of the real images, patients kept together: N/2 images against
N/2 of *other* patients. So value and ceiling do not compare; ``halves`` does: the generated images of one half against the real ones of
the other, on the same splits as the ceiling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medcodi.data.reports import is_language, words_of
from medcodi.evaluation.annotations import FEATURES, FLOOR, REPORT_SCORES
from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.figures import figure_record, flag
from medcodi.evaluation.scoring.statistics import (
    LEAST_RESAMPLES,
    BleuStatistic,
    MeanStatistic,
    SetStatistic,
    StudyStatistic,
)
from medcodi.metrics.bootstrap import Interval, Statistic, bootstrap_interval, weighted_mean
from medcodi.metrics.distances import Moments, frechet_distance, kernel_distance, kernel_statistic, mmd2
from medcodi.metrics.labeler import cites_prior, looks_english
from medcodi.metrics.similarity import Diversity, prdc
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator

CONSTANT, BLACK = 0.02, 0.01  # of the range: an image that spans less shows nothing; a brighter mean is not black
LEAST_STUDIES, WINDOW = 8, 11  # of MS-SSIM: studies, pixels per side


# ---- images ----------------------------------------------------------------------------------------------------------
def pairs_are_scored(target: str, num_studies: int, image_size: int) -> bool:
    """Whether MS-SSIM between pairs is defined for this number of studies at this image size."""
    return MODALITIES[target].kind == "image" and num_studies >= LEAST_STUDIES and image_size >= WINDOW


def score_diversity(case: Case) -> None:
    """Mean MS-SSIM of pairs of different patients' images (lower: more diverse), beside the same pairs of real images."""
    if not case.scores.enough("ms_ssim", LEAST_STUDIES, len(case.studies), "MS-SSIM between pairs of patients"):
        return
    if (size := case.studies.image_size) < WINDOW:
        case.scores.leave_out("ms_ssim", f"images of {size} pixels are smaller than its window of {WINDOW}")
        return
    if (pairs := case.generated.pairs) is None:
        return  # the pairs were not annotated
    mean = float(pairs.generated.mean())
    spread = Diversity(mean, pairs.num_scales, pairs.pairs, pairs.generated).statistic()
    case.scores.metrics["ms_ssim"] = figure_record(
        bootstrap_interval(spread, case.studies.weights),
        ceiling=float(pairs.real.mean()),
        pairs=len(pairs.pairs),
        scales=pairs.num_scales,
    )


def score_similarity(case: Case) -> None:
    """SSIM and PSNR to the one true image; they have no ceiling, because it would be the truth itself."""
    for name in ("ssim", "psnr"):
        if name in case.generated.arrays:
            value, floor = (MeanStatistic(case.generated.arrays[key]) for key in (name, name + FLOOR))
            case.scores.add(name, value, case.studies.weights, floor=floor)


def flag_images(case: Case) -> None:
    """Constant and black images, and equal ones of different studies."""
    arrays, ids = case.generated.arrays, case.studies.ids
    constant = arrays["range"] < CONSTANT
    flags = {
        "constant": flag(constant, ids),
        "black": flag(constant & (arrays["brightness"] < BLACK), ids),
        "repeated": flag(repeated(case.generated.hashes), ids),
    }
    case.scores.flags |= {name: entry for name, entry in flags.items() if entry}
    if entry := flags["constant"]:
        case.scores.notes.append(f"{entry['count']} of {len(ids)} images are constant; they were scored as they are")


def repeated(hashes: Sequence[str]) -> np.ndarray:
    """True where an earlier study has the very same content."""
    seen: set[str] = set()
    return np.array([digest in seen or bool(seen.add(digest)) for digest in hashes])


# ---- texts -----------------------------------------------------------------------------------------------------------
def score_texts(case: Case) -> None:
    """BLEU, ROUGE-L, METEOR and CIDEr, and against other patients' reports (one derangement).

    There is no ceiling, because each study has one true report.
    """
    assert case.scorer is not None
    generated, references = case.generated.texts, case.real.texts
    shuffled = [references[index] for index in case.studies.moved[0]]
    scores, floor = case.scorer.score(generated, references), case.scorer.score(generated, shuffled)
    for name, value in scores.corpus.items():
        if value is None:
            case.scores.leave_out(name, "; ".join(scores.notes) or "it was not asked for")
            continue
        statistic = scores.statistics[name]
        interval = bootstrap_interval(statistic, case.studies.weights)
        case.scores.metrics[name] = figure_record(interval, floor=floor.corpus[name])
        # What systems are compared by: BLEU counts texts anew, METEOR is of the whole set, the others are means.
        if name.startswith("bleu"):
            case.scores.statistics[name] = BleuStatistic(tuple(generated), tuple(references), name, case.scorer)
        elif name == "meteor":
            case.scores.statistics[name] = SetStatistic(statistic, len(generated))
        else:
            case.scores.statistics[name] = MeanStatistic(scores.per_study[name])
    case.scores.notes.extend(scores.notes)
    # Words that only an earlier study gives sense to; no prompt holds one.
    cited, ceiling = (
        MeanStatistic(np.array([cites_prior(text) for text in texts], np.float64)) for texts in (generated, references)
    )
    case.scores.add("prior_cited", cited, case.studies.weights, ceiling=ceiling)
    # Scores of pairs of reports by other packages are annotations.
    for key, values in case.generated.arrays.items():
        if key.startswith(REPORT_SCORES) and not key.endswith(FLOOR):
            floors = MeanStatistic(case.generated.arrays[key + FLOOR])
            name = key.removeprefix(REPORT_SCORES)
            case.scores.add(name, MeanStatistic(values), case.studies.weights, floor=floors)


def flag_texts(case: Case) -> None:
    """Empty reports, texts that are no language, reports in another language, and equal ones of different studies."""
    texts, ids = case.generated.texts, case.studies.ids
    empty = np.array([not text.strip() for text in texts])
    english = np.array([looks_english(text) for text in texts])
    # Words that some real report of these studies has.
    vocabulary = {word for text in case.real.texts for word in words_of(text)}
    language = np.array([is_language(text, vocabulary) for text in texts])
    flags = {
        "empty": flag(empty, ids),
        "no language": flag(english & ~language & ~empty, ids),
        "not English": flag(~english, ids),
        "repeated": flag(repeated(case.generated.hashes) & ~empty, ids),
    }
    case.scores.flags |= {name: entry for name, entry in flags.items() if entry}
    notes = {
        "empty": "are empty; they score 0 and count as without findings",
        "no language": "are no language; they were scored as they are",
        "not English": "do not look English; the labeler reads English only",
    }
    for name, note in notes.items():
        if entry := flags[name]:
            case.scores.notes.append(f"{entry['count']} of {len(ids)} reports {note}")


# ---- sets of images: distances in each extractor's features ----------------------------------------------------------
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
