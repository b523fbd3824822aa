"""Factuality: findings read from what was generated against the truth of the study, per finding and side, and as means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcodi.evaluation.annotators.classifier import SIDED_LABELS
from medcodi.evaluation.annotators.findings import FindingAnnotations
from medcodi.evaluation.materials import Areas, Counts, Ratio
from medcodi.evaluation.measures.case import Case
from medcodi.evaluation.scores import plain, value_of
from medcodi.metrics.classification import auprc_statistic, auroc_statistic
from medcodi.metrics.findings import Confusion, finding_scores, sides_of
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS, Finding

SIDES = {"left": 1, "right": 2}
LEAST_SIDES = (
    0.8  # right in real targets; a reader below that (of laterals, which hardly show sides) says nothing of a generator
)
SIDED = tuple(f"{label}/{side}" for label in SIDED_LABELS for side in SIDES)


def counted_findings(truth: np.ndarray, readable: np.ndarray, min_positives: int) -> list[int]:
    """Columns of findings that count: truly present in enough studies, and readable in this modality."""
    positives, negatives = (truth == 1).sum(0), (truth == 0).sum(0)
    return [k for k in range(truth.shape[1]) if positives[k] >= min_positives and negatives[k] >= 1 and readable[k]]


def side_codes(findings: Sequence[Sequence[Finding]]) -> np.ndarray:
    """On which sides each finding that has sides is told: int8 ``[N, L]``, bits of ``SIDES``; 0 without a side."""
    told = [[sum(SIDES[side] for side in sides_of(one, label)) for label in SIDED_LABELS] for one in findings]
    return np.array(told, dtype=np.int8).reshape(len(findings), len(SIDED_LABELS))


def sided(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Findings with a side, in the order of ``SIDED``: ``[N, K]`` of 0, 1, NaN (present, but no side told).

    Args:
        codes: From :func:`side_codes`.
        labels: ``[N, 14]`` of 0, 1, NaN.
    """
    columns = []
    for place, label in enumerate(SIDED_LABELS):
        known, code = labels[:, CHEXPERT_LABELS.index(label)], codes[:, place]
        for bit in SIDES.values():
            here = np.where(code > 0, (code & bit) > 0, np.nan)
            columns.append(np.where(known == 0, 0.0, np.where(known == 1, here, np.nan)))
    return np.stack(columns, 1)


def _with_sides(reading: FindingAnnotations, truth: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, ...]:
    """Truth, reading: the 14 findings, then those with a side; a side that is not read counts as not there."""
    truths, read = sided(true, truth), sided(side_codes(reading.sides), reading.labels)
    unread = np.isnan(reading.labels[:, [CHEXPERT_LABELS.index(label) for label in SIDED_LABELS for _ in SIDES]])
    read = np.where(unread, np.nan, np.nan_to_num(read))
    return np.hstack([truth, truths]), np.hstack([reading.labels, read])


def score_findings(case: Case) -> None:
    """F1, AUROC, AUPRC; sides."""
    truth, true = case.studies.truth, side_codes([case.studies.held.findings[row] for row in case.studies.rows])
    reading, real = case.generated_findings, case.real_findings
    readable = np.asarray(~np.isnan(reading.labels).any(0) & ~np.isnan(real.labels).any(0))
    columns = counted_findings(truth, readable, case.options.min_positives)
    if not columns:
        least = case.options.min_positives
        case.scores.leave_out(
            "finding_macro_f1",
            f"no finding counts: none is readable here and truly present in at least {least} of {len(truth)} studies",
            least,
            int((truth == 1).sum(0).max(initial=0)),
        )
        return
    case.scores.counted = columns
    generated, told = reading.labels[:, columns], truth[:, columns]
    model, ceiling = Confusion.of(told, generated), Confusion.of(told, real.labels[:, columns])
    floor = Confusion.mean([Confusion.of(told[permutation], generated) for permutation in case.studies.moved])
    names = tuple(f"{case.target}: {CHEXPERT_LABELS[k]}" for k in columns)
    for measure in ("macro_f1", "micro_f1"):
        one, best, worst = (Counts((each,), measure, (names,)) for each in (model, ceiling, floor))
        case.scores.add(f"finding_{measure}", one, case.studies.weights, ceiling=best, floor=worst)
    _score_areas(case, told, [CHEXPERT_LABELS[k] for k in columns])
    _score_each(case, truth, true, columns)
    _score_sides(case, reading, real, true)


def _probabilities(case: Case, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Of generated and of real contents, ``[N, K]``; None where findings are read without them (reports)."""
    if MODALITIES[case.target].kind != "image":
        return None
    assert case.readers.images is not None
    targets = case.readers.images.targets
    if not set(names) <= set(targets):
        return None
    columns = [targets.index(name) for name in names]
    generated, real = (one.arrays["probabilities"][:, columns] for one in (case.generated, case.real))
    return generated, real


def _score_areas(case: Case, truth: np.ndarray, names: Sequence[str]) -> None:
    scores = _probabilities(case, names)
    if scores is None:
        return
    named = tuple(f"{case.target}: {name}" for name in names)
    for measure in ("auroc", "auprc"):
        parts = (Areas(truth, scores[0], measure, named), Areas(truth, scores[1], measure, named))
        shuffled = (Areas(truth[permutation], scores[0], measure, named) for permutation in case.studies.moved)
        floor = float(np.mean([value_of(one.statistic(), len(truth)) for one in shuffled]))
        case.scores.add(f"finding_{measure}", parts[0], case.studies.weights, ceiling=parts[1], floor=floor)


def _score_each(case: Case, truth: np.ndarray, true: np.ndarray, counted: Sequence[int]) -> None:
    """Every finding that counts, then its sides: F1 with interval, precision, recall, areas, ceiling, floor."""
    told, read = _with_sides(case.generated_findings, truth, true)
    real = _with_sides(case.real_findings, truth, true)[1]
    every = [*CHEXPERT_LABELS, *SIDED]
    readable = np.asarray(~np.isnan(read).any(0) & ~np.isnan(real).any(0))
    judged = case.readers.judged(case.target) if MODALITIES[case.target].kind == "image" else every
    columns = list(counted) + [
        k
        for k in counted_findings(told, readable, case.options.min_positives)
        if k >= len(CHEXPERT_LABELS) and every[k] in judged
    ]
    names = [every[k] for k in columns]
    told, read, real = told[:, columns], read[:, columns], real[:, columns]
    model, best = (finding_scores(told, one, names).per_finding for one in (read, real))
    confusion = Confusion.of(told, read)
    floor = Confusion.mean([Confusion.of(told[permutation], read) for permutation in case.studies.moved])
    floors, resampled = floor.f1(np.ones((1, len(told))))[0], confusion.f1(case.studies.weights)
    scores = _probabilities(case, names)
    for k, name in enumerate(names):
        with np.errstate(invalid="ignore"):
            low, high = (
                np.nanquantile(resampled[:, k], [0.025, 0.975]) if not np.isnan(resampled[:, k]).all() else (None, None)
            )
        figures = {key: plain(value) for key, value in model[name].items()}
        figures |= {"low": plain(low), "high": plain(high), "ceiling_f1": plain(best[name]["f1"])}
        figures["floor_f1"] = float(np.nan_to_num(floors[k]))
        if scores is not None:
            ones = np.ones((1, len(told)))
            for measure, statistic in (("auroc", auroc_statistic), ("auprc", auprc_statistic)):
                figures[measure] = plain(float(statistic(told[:, k], scores[0][:, k])(ones)[0]))
                figures[f"ceiling_{measure}"] = plain(float(statistic(told[:, k], scores[1][:, k])(ones)[0]))
        case.scores.findings[name] = figures


def _right_sides(read: np.ndarray, true: np.ndarray) -> Ratio:
    """Of the findings that are told with a side by both, how many with the same: from two arrays of :func:`side_codes`."""
    both = (read > 0) & (true > 0)
    return Ratio((both & (read == true)).sum(1).astype(np.float64), both.sum(1).astype(np.float64))


def _score_sides(case: Case, reading: FindingAnnotations, real: FindingAnnotations, true: np.ndarray) -> None:
    """How often the side is right where a finding with a side is both true and read."""
    read = side_codes(reading.sides)
    model, ceiling = _right_sides(read, true), _right_sides(side_codes(real.sides), true)
    if not model.bottom.sum():
        case.scores.leave_out("side_accuracy", "no finding with a side is both true and read here", 1, 0)
        return
    told = value_of(ceiling.statistic(), len(read))
    if not told >= LEAST_SIDES:
        case.scores.leave_out(
            "side_accuracy", f"the reader tells no sides here: in real targets it has {100 * told:.0f} % of them right"
        )
        return
    shuffled = [_right_sides(read, true[permutation]) for permutation in case.studies.moved]
    floor = Ratio(np.mean([one.top for one in shuffled], 0), np.mean([one.bottom for one in shuffled], 0))
    case.scores.add(
        "side_accuracy", model, case.studies.weights, ceiling=ceiling, floor=floor, pairs=int(model.bottom.sum())
    )
