"""Likeness of generated contents to the true ones and to each other: SSIM, PSNR, MS-SSIM, overlap of texts; and flags of odd contents."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

import numpy as np

from medcodi.evaluation.annotations import FLOOR, REPORT_SCORES
from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.figures import figure_record, flag
from medcodi.evaluation.scoring.statistics import BleuStatistic, MeanStatistic, SetStatistic
from medcodi.metrics.bootstrap import bootstrap_interval
from medcodi.metrics.labeler import cites_prior, looks_english
from medcodi.metrics.similarity import Diversity
from medcodi.modality import MODALITIES

CONSTANT, BLACK = 0.02, 0.01  # of the range: an image that spans less shows nothing; a brighter mean is not black
LEAST_STUDIES, WINDOW = 8, 11  # of MS-SSIM: studies, pixels per side
# Share of a text's words that real reports must have; share that must differ, in a text of at least this number of words.
LEAST_KNOWN, LEAST_VARIED, LEAST_WORDS = 0.25, 0.2, 8


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


def score_alignment(case: Case) -> None:
    """Mean cosine of a generated image and the report that prompted it, in the shared latent space; ceiling: the real image."""
    reports = [
        table for name, table in case.prompts.items() if MODALITIES[name].kind == "text" and "latent" in table.arrays
    ]
    if not reports or "latent" not in case.generated.arrays:
        case.scores.leave_out("alignment", "no report prompts here, or no encoder embeds it")
        return
    prompt, made, real = reports[0].arrays["latent"], case.generated.arrays["latent"], case.real.arrays["latent"]
    # Latents are of length 1, [N, D]; the floor sets each image beside other patients' reports.
    floor = np.mean([(made * prompt[moved]).sum(1) for moved in case.studies.moved], 0)
    value, ceiling, floor = (MeanStatistic(row) for row in ((made * prompt).sum(1), (real * prompt).sum(1), floor))
    case.scores.add("alignment", value, case.studies.weights, ceiling=ceiling, floor=floor)


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


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters: runs of letters."""
    return re.findall(r"[^\W\d_]+", text.lower())


def is_language(text: str, vocabulary: Set[str]) -> bool:
    """Whether a text that is not empty consists of words: ``"eeeee"`` does not, nor does one word over and over.

    Args:
        text: A report.
        vocabulary: Words of real reports, in small letters.
    """
    words = words_of(text)
    known = sum(word in vocabulary for word in words)
    varied = len(words) < LEAST_WORDS or len(set(words)) >= LEAST_VARIED * len(words)
    return known >= LEAST_KNOWN * len(words) > 0 and varied


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
    if entry := flags["empty"]:
        case.scores.notes.append(
            f"{entry['count']} of {len(ids)} reports are empty; they score 0 and count as without findings"
        )
    if entry := flags["no language"]:
        case.scores.notes.append(
            f"{entry['count']} of {len(ids)} reports are no language; they were scored as they are"
        )
    if entry := flags["not English"]:
        case.scores.notes.append(
            f"{entry['count']} of {len(ids)} reports do not look English; the labeler reads English only"
        )
