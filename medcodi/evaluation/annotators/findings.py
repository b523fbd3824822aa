"""Findings of contents: labels and sides, from the probabilities of an image annotator or from a labeler's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcodi.study import CHEXPERT_LABELS, Finding


@dataclass(frozen=True)
class FindingAnnotations:
    """Findings of N contents of one modality."""

    labels: np.ndarray  # float32 [N, 14] of 0, 1 (NaN: not judged in this modality)
    sides: list[tuple[Finding, ...]]  # findings with their side, of each content

    def rows(self, chosen: Sequence[int]) -> FindingAnnotations:
        """Those of some of the contents."""
        rows = list(chosen)
        return FindingAnnotations(self.labels[rows], [self.sides[row] for row in rows])


def findings_from_probabilities(
    targets: Sequence[str], thresholds: np.ndarray, judged: Sequence[str], probabilities: np.ndarray
) -> FindingAnnotations:
    """Labels and sides, by thresholds.

    Args:
        targets: What each column is about: a label, or label/side.
        thresholds: ``[K]``: a target whose probability is at least this is present.
        judged: Targets that are annotated well enough in this modality; others are NaN, and have no side.
        probabilities: ``[N, K]``.
    """
    present = probabilities >= thresholds  # [N, K]
    column_of = {target: column for column, target in enumerate(targets)}
    labels = np.full((len(probabilities), len(CHEXPERT_LABELS)), np.nan, np.float32)
    for column, label in enumerate(CHEXPERT_LABELS):
        if label in judged:
            labels[:, column] = present[:, column_of[label]]
    # A side counts only where its label is present too.
    split = [target.split("/") for target in judged if "/" in target]
    sided = [(label, side, column_of[f"{label}/{side}"], column_of[label]) for label, side in split if label in judged]
    sides = [
        tuple(
            Finding(label=label, side=side)
            for label, side, on_side, any_side in sided
            if row[on_side] and row[any_side]
        )
        for row in present
    ]
    return FindingAnnotations(labels, sides)
