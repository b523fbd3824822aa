"""Factuality: findings annotated in generated contents against the truth of the study, per finding and side, and as means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

import numpy as np
import yaml

from medcodi.evaluation.annotations import SIDES, AnnotationTable
from medcodi.evaluation.annotators.classifier import SIDED_LABELS
from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.figures import plain, value_of
from medcodi.evaluation.scoring.statistics import AREAS, AreaStatistic, F1Statistic, RatioStatistic
from medcodi.metrics.findings import Confusion, finding_scores
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS

# Share of sides that must be right in real targets: an annotator below that (of laterals, which hardly show sides) cannot judge a generator.
LEAST_SIDES = 0.8
SIDED = tuple(f"{label}/{side}" for label in SIDED_LABELS for side in SIDES)
_SIDED_COLUMNS = [CHEXPERT_LABELS.index(label) for label in SIDED_LABELS]


def counted_findings(truth: np.ndarray, annotated: np.ndarray, min_positives: int) -> list[int]:
    """Columns of findings that count.

    Args:
        truth: ``[N, K]`` of 0, 1, NaN.
        annotated: bool ``[K]``: whether a finding is annotated in this modality.
        min_positives: Studies that must truly have it; one at least must not.
    """
    positives, negatives = (truth == 1).sum(0), (truth == 0).sum(0)
    return [k for k in range(truth.shape[1]) if positives[k] >= min_positives and negatives[k] >= 1 and annotated[k]]


def sided(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Findings with a side, in the order of ``SIDED``: ``[N, K]`` of 0, 1, NaN (present, but the side is unknown).

    Args:
        codes: int8 ``[N, 14]``, see :func:`medcodi.evaluation.annotations.side_codes`.
        labels: ``[N, 14]`` of 0, 1, NaN.
    """
    columns = []
    for column in _SIDED_COLUMNS:
        known, code = labels[:, column], codes[:, column]
        for bit in SIDES.values():
            on_side = np.where(code > 0, (code & bit) > 0, np.nan)
            columns.append(np.where(known == 0, 0.0, np.where(known == 1, on_side, np.nan)))
    return np.stack(columns, 1)


def _with_sides(table: AnnotationTable) -> np.ndarray:
    """The 14 labels, then those with a side: ``[N, 14 + K]``; a side that is not annotated counts as absent."""
    labels = table.arrays["labels"]
    sides = sided(table.arrays["sides"], labels)
    unknown = np.isnan(labels[:, [column for column in _SIDED_COLUMNS for _ in SIDES]])
    return np.hstack([labels, np.where(unknown, np.nan, np.nan_to_num(sides))])


def score_findings(case: Case) -> None:
    """F1, AUROC, AUPRC, per finding and as means; sides."""
    truth = case.studies.truth
    labels, real = case.generated.arrays["labels"], case.real.arrays["labels"]  # [N, 14]
    # Which findings count.
    annotated = np.asarray(~np.isnan(labels).any(0) & ~np.isnan(real).any(0))
    columns = counted_findings(truth, annotated, case.config.min_positives)
    if not columns:
        least = case.config.min_positives
        case.scores.leave_out(
            "finding_macro_f1",
            f"no finding counts: none is readable here and truly present in at least {least} of {len(truth)} studies",
            least,
            int((truth == 1).sum(0).max(initial=0)),
        )
        return
    case.scores.counted = columns
    names = [CHEXPERT_LABELS[k] for k in columns]
    # F1: generated, real (ceiling), against other patients' truth (floor).
    counted_truth, generated = truth[:, columns], labels[:, columns]
    ceiling = Confusion.of(counted_truth, real[:, columns])
    floor = Confusion.mean([Confusion.of(counted_truth[moved], generated) for moved in case.studies.moved])
    titles = (tuple(f"{case.target}: {name}" for name in names),)
    for measure in ("macro_f1", "micro_f1"):
        value, best, worst = (
            F1Statistic((confusion,), measure, titles)
            for confusion in (Confusion.of(counted_truth, generated), ceiling, floor)
        )
        case.scores.add(f"finding_{measure}", value, case.studies.weights, ceiling=best, floor=worst)
    _score_areas(case, counted_truth, names)
    _score_each(case, columns)
    _score_sides(case)


@lru_cache(maxsize=1)
def urgency() -> np.ndarray:
    """Weight of each of the 14 labels by how urgent it is: float64 ``[14]``; of ``urgency.yaml``, which is openly ours."""
    table = yaml.safe_load(resources.files("medcodi.evaluation.scoring").joinpath("urgency.yaml").read_text("utf-8"))
    return np.array([table["weights"][table["findings"][label]] for label in CHEXPERT_LABELS], np.float64)


def score_severity(case: Case) -> None:
    """Micro F1 in which a finding that is right, missed or invented counts as often as it is urgent; over all labels that are annotated."""
    truth, name = case.studies.truth, "finding_severity_f1"
    labels, real = case.generated.arrays["labels"], case.real.arrays["labels"]  # [N, 14]
    annotated = ~np.isnan(labels).any(0) & ~np.isnan(real).any(0) & (urgency() > 0)
    columns = np.flatnonzero(annotated).tolist()
    if not (truth[:, columns] == 1).any():
        case.scores.leave_out(name, "no finding with a weight is read here and truly present", 1, 0)
        return
    titles, weights = (tuple(f"{case.target}: {CHEXPERT_LABELS[k]}" for k in columns),), urgency()[columns]

    def of(own: np.ndarray, annotations: np.ndarray) -> Confusion:
        return Confusion.of(own[:, columns], annotations[:, columns]).weighted(weights)

    floor = Confusion.mean([of(truth[moved], labels) for moved in case.studies.moved])
    value, best, worst = (
        F1Statistic((confusion,), "micro_f1", titles) for confusion in (of(truth, labels), of(truth, real), floor)
    )
    case.scores.add(name, value, case.studies.weights, ceiling=best, floor=worst)


def _probabilities(case: Case, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Arrays of generated and of real contents, ``[N, K]``; None if the annotator gives none (reports), or not of all names."""
    targets = case.generated.targets
    if MODALITIES[case.target].kind != "image" or not set(names) <= set(targets):
        return None
    columns = [targets.index(name) for name in names]
    return tuple(table.arrays["probabilities"][:, columns] for table in (case.generated, case.real))  # type: ignore[return-value]


def _score_areas(case: Case, truth: np.ndarray, names: Sequence[str]) -> None:
    scores = _probabilities(case, names)
    if scores is None:
        return
    titles = tuple(f"{case.target}: {name}" for name in names)
    for measure in AREAS:
        value, ceiling = (AreaStatistic(truth, each, measure, titles) for each in scores)
        shuffled = (AreaStatistic(truth[moved], scores[0], measure, titles) for moved in case.studies.moved)
        floor = float(np.mean([value_of(statistic.statistic(), len(truth)) for statistic in shuffled]))
        case.scores.add(f"finding_{measure}", value, case.studies.weights, ceiling=ceiling, floor=floor)


def _score_each(case: Case, counted: Sequence[int]) -> None:
    """Every finding that counts, then its sides: F1 with interval, precision, recall, areas, ceiling, floor."""
    truth = np.hstack([case.studies.truth, sided(case.studies.sides, case.studies.truth)])  # [N, 14 + K]
    labels, real = _with_sides(case.generated), _with_sides(case.real)
    every = [*CHEXPERT_LABELS, *SIDED]
    # The findings that count, and of those with a side the ones that count and are judged.
    annotated = np.asarray(~np.isnan(labels).any(0) & ~np.isnan(real).any(0))
    judged = case.generated.judged if MODALITIES[case.target].kind == "image" else every
    with_side = [
        k
        for k in counted_findings(truth, annotated, case.config.min_positives)
        if k >= len(CHEXPERT_LABELS) and every[k] in judged
    ]
    columns = [*counted, *with_side]
    names = [every[k] for k in columns]
    truth, labels, real = truth[:, columns], labels[:, columns], real[:, columns]
    # Values, ceilings, floors and resamples of F1.
    values, ceilings = (finding_scores(truth, each, names).per_finding for each in (labels, real))
    resampled = Confusion.of(truth, labels).f1(case.studies.weights)  # [R, K]
    floor = Confusion.mean([Confusion.of(truth[moved], labels) for moved in case.studies.moved])
    ones = np.ones((1, len(truth)))
    floors = floor.f1(ones)[0]
    scores = _probabilities(case, names)
    for k, name in enumerate(names):
        figures = {key: plain(value) for key, value in values[name].items()}
        low, high = None, None
        if not np.isnan(resampled[:, k]).all():
            low, high = np.nanquantile(resampled[:, k], [0.025, 0.975])
        figures |= {"low": plain(low), "high": plain(high), "ceiling_f1": plain(ceilings[name]["f1"])}
        figures["floor_f1"] = float(np.nan_to_num(floors[k]))
        for measure, statistic in AREAS.items() if scores is not None else ():
            figures[measure], figures[f"ceiling_{measure}"] = (
                plain(float(statistic(truth[:, k], each[:, k])(ones)[0])) for each in scores or ()
            )
        case.scores.findings[name] = figures


def _right_sides(codes: np.ndarray, true: np.ndarray) -> RatioStatistic:
    """Share of the findings with a side in both, ``[N, 14]`` codes, whose side is the same."""
    codes, true = codes[:, _SIDED_COLUMNS], true[:, _SIDED_COLUMNS]
    both = (codes > 0) & (true > 0)
    return RatioStatistic((both & (codes == true)).sum(1).astype(np.float64), both.sum(1).astype(np.float64))


def _score_sides(case: Case) -> None:
    """How often the side is right, if a finding with a side is both true and annotated."""
    true, codes = case.studies.sides, case.generated.arrays["sides"]
    value, ceiling = _right_sides(codes, true), _right_sides(case.real.arrays["sides"], true)
    if not value.bottom.sum():
        case.scores.leave_out("side_accuracy", "no finding with a side is both true and read here", 1, 0)
        return
    right = value_of(ceiling.statistic(), len(codes))
    if not right >= LEAST_SIDES:
        case.scores.leave_out(
            "side_accuracy",
            f"the annotator recognises no sides here: in real targets it has {100 * right:.0f} % of them right",
        )
        return
    shuffled = [_right_sides(codes, true[moved]) for moved in case.studies.moved]
    floor = RatioStatistic(
        np.mean([ratio.top for ratio in shuffled], 0), np.mean([ratio.bottom for ratio in shuffled], 0)
    )
    pairs = int(value.bottom.sum())
    case.scores.add("side_accuracy", value, case.studies.weights, ceiling=ceiling, floor=floor, pairs=pairs)
