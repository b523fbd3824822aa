"""Metrics of the images themselves: diversity of the set, likeness to the one true image, and what is odd."""

from __future__ import annotations

import numpy as np

from medcodi.evaluation.held_out import Value
from medcodi.evaluation.materials import Means
from medcodi.evaluation.measures.case import Case, Contents
from medcodi.evaluation.reading import CONSTANT
from medcodi.evaluation.scores import flag, record
from medcodi.metrics.bootstrap import bootstrap_interval
from medcodi.metrics.similarity import Diversity, diversity, draw_pairs

BLACK = 0.01  # of the range: a brighter mean shows something
LEAST, WINDOW = 8, 11  # studies, pixels a side


def score_diversity(case: Case) -> None:
    """Mean MS-SSIM of pairs of different patients' images (lower: more diverse); the same pairs of real images beside it."""
    if not case.scores.enough("ms_ssim", LEAST, len(case.generated), "MS-SSIM between pairs of patients"):
        return
    if (size := case.studies.held.image_size) < WINDOW:
        case.scores.leave_out("ms_ssim", f"images of {size} pixels are smaller than its window of {WINDOW}")
        return
    pairs = draw_pairs(case.studies.patients, case.options.diversity_pairs, case.options.seed)
    used = sorted(set(pairs.ravel().tolist()))
    rows = tuple(case.studies.rows[place] for place in used)
    key = ("diversity", case.target, rows, pairs.tobytes())
    if key not in case.studies.held.remembered:  # the same pairs of real images in every direction
        case.studies.held.remembered[key] = _of_pairs(case, case.real_values, pairs, used).ms_ssim
    generated = _of_pairs(case, case.generated_values, pairs, used)
    spread = bootstrap_interval(generated.statistic(), case.studies.weights[:, used])
    real = float(case.studies.held.remembered[key])
    case.scores.metrics["ms_ssim"] = record(spread, ceiling=real, pairs=len(pairs), scales=generated.num_scales)


def _of_pairs(case: Case, values: Contents, pairs: np.ndarray, used: list[int]) -> Diversity:
    place = {row: position for position, row in enumerate(used)}
    read: list[Value] = values([case.studies.rows[row] for row in used])
    patients = [case.studies.patients[row] for row in used]
    return diversity([np.asarray(value) for value in read], patients, pairs=np.vectorize(place.__getitem__)(pairs))


def score_similarity(case: Case) -> None:
    """SSIM and PSNR to the one true image; they have no ceiling, for it would be the truth itself."""
    if "ssim" not in case.generated.arrays:
        return
    for name in ("ssim", "psnr"):
        floor = Means(case.generated.arrays[f"{name}_floor"])
        case.scores.add(name, Means(case.generated.arrays[name]), case.studies.weights, floor=floor)


def flag_images(case: Case) -> None:
    """Constant and black images, and equal ones of different studies."""
    arrays, ids = case.generated.arrays, case.studies.ids
    constant = arrays["range"] < CONSTANT
    found = {
        "constant": flag(constant, ids),
        "black": flag(constant & (arrays["brightness"] < BLACK), ids),
        "repeated": flag(repeated(case.generated.hashes), ids),
    }
    case.scores.flags |= {name: one for name, one in found.items() if one}
    if told := found["constant"]:
        case.scores.notes.append(f"{told['count']} of {len(ids)} images are constant; they were scored as they are")


def repeated(hashes: list[str]) -> np.ndarray:
    """True where an earlier study has the very same content."""
    seen: set[str] = set()
    return np.array([one in seen or bool(seen.add(one)) for one in hashes])
