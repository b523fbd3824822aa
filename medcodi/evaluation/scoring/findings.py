"""Factuality: findings annotated in generated contents against the truth of the study, per finding and side, and as means; and by groups of patients.

Every metric of findings is given by groups (sex × age band), with the worst group, the gap, and its interval. The gap is the best group's
figure minus the worst's. The largest of several differences is above 0 even if nothing differs, so it stands beside its floor: the same with
the groups of other patients' studies. Its ceiling is the gap of the annotator on the real targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medcodi.evaluation.annotations import SIDES, AnnotationTable
from medcodi.evaluation.annotators.classifier import SIDED_LABELS
from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.figures import plain, value_of
from medcodi.evaluation.scoring.groups import group_order
from medcodi.evaluation.scoring.metrics import metric_row
from medcodi.evaluation.scoring.statistics import (
    AREAS,
    OF_FINDINGS,
    AreaStatistic,
    F1Statistic,
    RatioStatistic,
    StudyStatistic,
)
from medcodi.metrics.bootstrap import Statistic, bootstrap_interval, paired_difference
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

    ``codes`` are int8 ``[N, 14]``, see :func:`medcodi.evaluation.annotations.side_codes`; ``labels`` are ``[N, 14]`` of 0, 1, NaN.
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


# ---- by subgroups of patients ----------------------------------------------------------------------------------------
POOLED = "finding_micro_f1"  # over all findings that count, also those that a group lacks
Rows = Mapping[str, np.ndarray]  # group -> indices of its studies


def score_subgroups(case: Case) -> None:
    """Add the metrics of findings by group; groups that are too small are listed as left out."""
    metrics = [metric for metric in case.scores.statistics if metric_row(metric).table == "findings"]
    if not case.studies.table.records or not metrics:
        return  # studies without records have no groups
    group_of, reason = case.studies.groups
    # Groups that are large enough.
    least, rows = case.config.subgroup_studies, {}
    for name in sorted(set(group_of) - {""}, key=group_order):
        own = np.flatnonzero(np.array(group_of) == name)
        if case.scores.enough(f"subgroups: {name}", least, len(own), "a group"):
            rows[name] = own
    if unknown := group_of.count(""):
        reason = reason or f"{unknown} studies lack {' or '.join(case.config.subgroup_by)}"
        case.scores.leave_out("subgroups: unknown", reason)
    if len(rows) < 2:
        case.scores.leave_out("subgroups", reason or "fewer than 2 groups are large enough", 2, len(rows))
        return
    # Every metric of findings, over the findings that count in each of the groups.
    common = _counted_everywhere(case, rows)
    for metric in metrics:
        statistic = case.scores.statistics[metric]
        bounds: list[StudyStatistic | None] = [statistic, case.scores.ceilings.get(metric)]
        if isinstance(statistic, OF_FINDINGS) and metric != POOLED:
            if not common:
                positives = case.config.min_positives
                case.scores.leave_out(
                    f"{metric}: subgroups", f"no finding is present in {positives} studies of each group"
                )
                continue
            bounds = [own.of_findings(common) if isinstance(own, OF_FINDINGS) else own for own in bounds]
        case.scores.subgroups[metric] = _by_group(case, rows, bounds[0], bounds[1])  # type: ignore[arg-type]
        if isinstance(statistic, OF_FINDINGS):
            case.scores.subgroups[metric]["findings"] = len(case.scores.counted if metric == POOLED else common)


def _counted_everywhere(case: Case, rows: Rows) -> set[str]:
    """Names of the findings that enough studies of each group truly have, and at least one has not."""
    truth, counted = case.studies.truth, case.scores.counted
    return {
        f"{case.target}: {CHEXPERT_LABELS[k]}"
        for k in counted
        if all(
            (truth[own, k] == 1).sum() >= case.config.min_positives and (truth[own, k] == 0).any()
            for own in rows.values()
        )
    }


def _of_rows(statistic: StudyStatistic, rows: np.ndarray) -> Statistic:
    """The figure of one group as a function of the weights of all studies, ``[R, N]``."""
    own = statistic.take(rows.tolist()).statistic()

    def of_group(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return own(weights[:, rows])

    return of_group


def _by_group(case: Case, rows: Rows, statistic: StudyStatistic, ceiling: StudyStatistic | None) -> dict[str, Any]:
    """One metric: its figure in each group, the worst and the best group, and the gap between them."""
    weights, patients, num = case.studies.weights, np.array(case.studies.patients, dtype=object), len(case.studies)
    statistics = {name: _of_rows(statistic, own) for name, own in rows.items()}
    best_of = {} if ceiling is None else {name: value_of(_of_rows(ceiling, own), num) for name, own in rows.items()}
    groups = {
        name: {
            "studies": len(own),
            "patients": len(set(patients[own])),
            **bootstrap_interval(statistics[name], weights).to_dict(),
            "ceiling": plain(best_of.get(name)),
        }
        for name, own in rows.items()
    }
    known = {name: figure["value"] for name, figure in groups.items() if figure["value"] is not None}
    result: dict[str, Any] = {"groups": groups, "worst": None, "best": None, "gap": None}
    if len(known) < 2:
        return result
    # The gap between the two groups, on common resamples; by chance, where studies have other patients' groups; of the annotator.
    worst, best = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    gap = paired_difference(statistics[best], statistics[worst], weights).to_dict()
    shuffled = [_spread(statistic, {name: np.flatnonzero(np.isin(moved, own)) for name, own in rows.items()}, num)
                for moved in case.studies.moved]  # fmt: skip
    floor = float(np.mean(shuffled))
    widest = float(np.ptp(list(best_of.values()))) if best_of else None
    return result | {"worst": worst, "best": best, "gap": {**gap, "floor": plain(floor), "ceiling": plain(widest)}}


def _spread(statistic: StudyStatistic, rows: Rows, num: int) -> float:
    """Largest minus smallest figure of the groups."""
    return float(np.ptp([value_of(_of_rows(statistic, own), num) for own in rows.values()]))
