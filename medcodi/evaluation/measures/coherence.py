"""Coherence of jointly generated targets, pair by pair: what ``medcodi.evaluation.coherence`` measures, as figures of the results."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from medcodi.evaluation.coherence import PairReadings, coherence
from medcodi.evaluation.measures.case import Case
from medcodi.evaluation.measures.findings import counted_findings
from medcodi.evaluation.reading import ContentReading, Readers
from medcodi.evaluation.scores import TargetScores, plain
from medcodi.study import CHEXPERT_LABELS

LEAST = 8  # studies
Pair = tuple[np.ndarray, np.ndarray]


def score_coherence(cases: Sequence[Case]) -> dict[str, TargetScores]:
    """Every pair of the targets of one direction: ``frontal+lateral`` -> scores."""
    found = {}
    for first, second in combinations(cases, 2):
        scores = TargetScores()
        found[f"{first.target}+{second.target}"] = scores
        if scores.enough("coherence", LEAST, len(first.studies.rows), "coherence of pairs"):
            _score_pair(scores, first, second)
    return found


def _score_pair(scores: TargetScores, first: Case, second: Case) -> None:
    read = first.generated_findings.labels, second.generated_findings.labels
    real = first.real_findings.labels, second.real_findings.labels
    unread = np.stack([np.isnan(labels).any(0) for labels in (*read, *real)])  # [4, 14]
    columns = counted_findings(first.studies.truth, np.asarray(~unread.any(0)), first.options.min_positives)
    told = coherence(
        _readings(first.generated, second.generated, read, columns, first.readers),
        _readings(first.real, second.real, real, columns, first.readers),
        [CHEXPERT_LABELS[k] for k in columns],
        first.studies.moved,
        first.studies.weights,
    )
    for name, figure in told.figures.items():
        scores.metrics[name] = figure.to_dict() | {"value": plain(figure.value.value)}
    scores.findings = {name: dict(each) for name, each in told.per_finding.items()}
    for note in told.notes:
        scores.leave_out("coherence", note)


def _readings(
    first: ContentReading, second: ContentReading, labels: Pair, columns: Sequence[int], readers: Readers
) -> PairReadings:
    """What was read from both, as far as it was."""

    def both(name: str) -> Pair | None:
        arrays = first.arrays.get(name), second.arrays.get(name)
        return None if arrays[0] is None or arrays[1] is None else (arrays[0], arrays[1])

    geometry = both("geometry")
    if geometry is not None and readers.geometry is not None:
        judged = list(readers.geometry.judged(first.target, second.target))
        geometry = (geometry[0][:, judged], geometry[1][:, judged])
    chosen = list(columns)
    return PairReadings(
        labels=(labels[0][:, chosen], labels[1][:, chosen]) if chosen else None,
        latents=both("latent"),
        geometry=geometry,
    )
