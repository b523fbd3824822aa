"""Subgroups: every metric of findings by groups of patients (sex × age band), with the worst group, the gap, and its interval.

The gap is the best group's figure minus the worst's. The largest of several differences is above 0 even if nothing differs, so it stands
beside its floor: the same with the groups of other patients' studies. Its ceiling is the gap of the annotator on the real targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.figures import plain, value_of
from medcodi.evaluation.scoring.groups import group_order
from medcodi.evaluation.scoring.metrics import metric_row
from medcodi.evaluation.scoring.statistics import OF_FINDINGS, StudyStatistic
from medcodi.metrics.bootstrap import Statistic, bootstrap_interval, paired_difference
from medcodi.study import CHEXPERT_LABELS

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
