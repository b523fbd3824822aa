"""Coherence of jointly generated targets, each figure beside real pairs (its ceiling) and re-paired generations (its floor).

Three questions about a pair of targets of one study: do their findings agree, do both find each other in the shared latent space, and
(images of phantoms) do both show one body? The floor gives every study the second target of another patient's generation (derangements,
as everywhere), so it keeps what the model makes of each modality and loses only that they belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from medcodi.evaluation.annotators.geometry import geometry_agreement
from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.figures import TargetScores, plain, value_of
from medcodi.evaluation.scoring.findings import counted_findings
from medcodi.metrics.bootstrap import Interval, bootstrap_interval
from medcodi.metrics.coherence import RECALLS, Contingency, pair_similarity, partner_ranks, retrieval
from medcodi.study import CHEXPERT_LABELS

LEAST_STUDIES = 8
Pair = tuple[np.ndarray, np.ndarray]  # annotations of both targets, [N, ...] each


@dataclass(frozen=True)
class PairAnnotations:
    """Annotations of two targets of the same N studies."""

    labels: Pair | None = None  # findings of each, `[N, K]` of 0, 1, NaN; None: not annotated
    latents: Pair | None = None  # position of each in the shared latent space, `[N, D]`; None: not annotated
    geometry: Pair | None = None  # attributes of each that count, `[N, A]`; None: not annotated


def score_coherence(cases: Sequence[Case], geometry: Mapping[str, Sequence[int]]) -> dict[str, TargetScores]:
    """Every pair of the targets of one direction.

    Args:
        cases: The targets.
        geometry: Pair of views -> columns of their geometry that count.

    Returns:
        ``frontal+lateral`` -> scores.
    """
    scores = {}
    for first, second in combinations(cases, 2):
        pair = f"{first.target}+{second.target}"
        scores[pair] = pair_scores = TargetScores()
        if pair_scores.enough("coherence", LEAST_STUDIES, len(first.studies), "coherence of pairs"):
            _score_pair(pair_scores, first, second, geometry.get(pair))
    return scores


def _score_pair(scores: TargetScores, first: Case, second: Case, attributes: Sequence[int] | None) -> None:
    tables = {"generated": (first.generated, second.generated), "real": (first.real, second.real)}
    # Findings count if both targets have them annotated, generated and real.
    labels = [table.arrays["labels"] for pair in tables.values() for table in pair]
    annotated = np.asarray(~np.stack([np.isnan(each).any(0) for each in labels]).any(0))  # [14]
    columns = counted_findings(first.studies.truth, annotated, first.config.min_positives)

    def annotations(kind: str) -> PairAnnotations:
        first_arrays, second_arrays = (table.arrays for table in tables[kind])
        geometry = None
        if attributes is not None and "geometry" in first_arrays and "geometry" in second_arrays:
            geometry = first_arrays["geometry"][:, list(attributes)], second_arrays["geometry"][:, list(attributes)]
        return PairAnnotations(
            labels=(first_arrays["labels"][:, columns], second_arrays["labels"][:, columns]) if columns else None,
            latents=(first_arrays["latent"], second_arrays["latent"])
            if "latent" in first_arrays and "latent" in second_arrays
            else None,
            geometry=geometry,
        )

    studies, names = first.studies, [CHEXPERT_LABELS[k] for k in columns]
    measure_pair(scores, annotations("generated"), annotations("real"), names, studies.moved, studies.weights)


def measure_pair(
    scores: TargetScores,
    generated: PairAnnotations,
    real: PairAnnotations,
    names: Sequence[str],
    moved: Sequence[np.ndarray],
    weights: np.ndarray,
) -> None:
    """Add all coherence figures that the annotations allow.

    Args:
        scores: What is added to.
        generated: Of the jointly generated studies.
        real: Of the same studies' real contents: the ceiling.
        names: The ``K`` findings of ``labels``.
        moved: Derangements of the studies between patients, int ``[N]`` each; the floor is their mean.
        weights: Bootstrap resamples, ``[R, N]``.
    """
    if generated.labels is not None:
        _findings(scores, generated.labels, real.labels, names, moved, weights)
    else:
        scores.leave_out("coherence", "finding agreement was not measured: findings were not read from both")
    if generated.latents is not None:
        _latents(scores, generated.latents, real.latents, moved, weights)
    else:
        scores.leave_out("coherence", "retrieval was not measured: there are no latents of both")
    if generated.geometry is not None and generated.geometry[0].shape[1]:
        _geometry(scores, generated.geometry, real.geometry, moved, weights)
    else:
        scores.leave_out(
            "coherence", "geometry was not measured: no attribute is known (real data) or read well enough in both"
        )


def pair_figure(
    value: Interval, ceiling: float | None, floor: float | None, *, lower_is_better: bool = False
) -> dict[str, Any]:
    """One figure of a pair: with its share of the ceiling, if more is better and the ceiling is positive."""
    share = None if ceiling is None or lower_is_better or not ceiling > 0 else value.value / ceiling
    return {
        **value.to_dict(),
        "value": plain(value.value),
        "ceiling": plain(ceiling),
        "floor": plain(floor),
        "share_of_ceiling": plain(share),
        "lower_is_better": lower_is_better,
    }


def _findings(
    scores: TargetScores,
    labels: Pair,
    real: Pair | None,
    names: Sequence[str],
    moved: Sequence[np.ndarray],
    weights: np.ndarray,
) -> None:
    """Cohen's kappa and F1 between the findings of both."""
    first, second = labels
    num = len(first)
    pairs = Contingency.of(first, second)
    floor = Contingency.mean([Contingency.of(first, second[rows]) for rows in moved])
    ceiling = Contingency.of(*real) if real is not None else None
    for measure in ("kappa", "f1"):
        scores.metrics[f"finding_{measure}"] = pair_figure(
            bootstrap_interval(pairs.macro(measure), weights),
            None if ceiling is None else value_of(ceiling.macro(measure), num),
            value_of(floor.macro(measure), num),
        )
    # One finding at a time.
    each, ceilings = pairs.per_finding(names), None if ceiling is None else ceiling.per_finding(names)
    for name in names:
        figures = {key: plain(value) for key, value in each[name].items()}
        for key in ("kappa", "f1"):
            figures[f"ceiling_{key}"] = None if ceilings is None else plain(ceilings[name][key])
        scores.findings[name] = figures


def _latents(
    scores: TargetScores, latents: Pair, real: Pair | None, moved: Sequence[np.ndarray], weights: np.ndarray
) -> None:
    """Rank of the partner among all studies, recall at k, cosine."""
    first, second = latents
    ranks = retrieval(first, second, recalls=RECALLS)
    ceiling = None if real is None else retrieval(*real, recalls=RECALLS)
    floors = partner_ranks(first, second, moved)  # [derangements, N]
    scores.metrics["retrieval_median_rank"] = pair_figure(
        bootstrap_interval(ranks.median_statistic(), weights),
        None if ceiling is None else ceiling.median_rank,
        float(np.median(floors, axis=1).mean()),
        lower_is_better=True,
    )
    for k in RECALLS:
        scores.metrics[f"retrieval_recall_at_{k}"] = pair_figure(
            bootstrap_interval(ranks.recall_statistic(k), weights),
            None if ceiling is None else ceiling.recall[k],
            float((floors <= k).mean()),
        )
    cosines = pair_similarity(first, second)  # [N]
    ones = np.ones_like(cosines)
    scores.metrics["latent_similarity"] = pair_figure(
        bootstrap_interval(lambda rows: rows @ cosines / (rows @ ones), weights),
        None if real is None else float(pair_similarity(*real).mean()),
        float(np.mean([pair_similarity(first, second[rows]).mean() for rows in moved])),
    )


def _geometry(
    scores: TargetScores, geometry: Pair, real: Pair | None, moved: Sequence[np.ndarray], weights: np.ndarray
) -> None:
    """Correlation of the bodies' attributes."""
    first, second = geometry
    num = len(first)
    scores.metrics["geometry_correlation"] = pair_figure(
        bootstrap_interval(geometry_agreement(first, second), weights),
        None if real is None else value_of(geometry_agreement(*real), num),
        float(np.mean([value_of(geometry_agreement(first, second[rows]), num) for rows in moved])),
    )
