"""Studies shown on a page, chosen by stated rules, and the annotators' findings in each of their contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medcodi.evaluation.annotations import SIDES, Annotations, AnnotationTable
from medcodi.evaluation.scoring.direction import DirectionScores
from medcodi.evaluation.scoring.metrics import PRIMARY
from medcodi.evaluation.scoring.statistics import F1Statistic
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Direction


def wrong_findings(scores: DirectionScores) -> np.ndarray:
    """Number of wrong findings in each scored study, over all targets: float64 ``[N]``."""
    wrong = np.zeros(len(scores.rows))
    for target in scores.targets.values():
        statistic = target.statistics.get(PRIMARY)
        if isinstance(statistic, F1Statistic):
            wrong += sum((confusion.fp + confusion.fn).sum(1) for confusion in statistic.confusions)
    return wrong


def shown_studies(scores: DirectionScores, seed: int, num: int) -> list[tuple[str, int]]:
    """(title, row) of the studies on the page: ``num`` random ones, then the ``num`` worst of the others."""
    order = numpy_generator("pictures", seed, str(scores.direction)).permutation(len(scores.rows))
    random = [int(place) for place in order[:num]]
    wrong = wrong_findings(scores)
    worst = [place for place in sorted(order.tolist(), key=lambda place: -wrong[place]) if place not in random][:num]
    return [("random study", scores.rows[place]) for place in random] + [
        (f"worst study: {wrong[place]:.0f} of its findings wrong", scores.rows[place])
        for place in worst
        if wrong[place] > 0
    ]


def direction_pictures(
    direction: Direction,
    scores: Mapping[str, DirectionScores],
    annotations: Annotations,
    generated: Mapping[str, Mapping[str, AnnotationTable]],
    real: Mapping[str, AnnotationTable],
    *,
    num: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The studies of one direction.

    Args:
        direction: Which one.
        scores: System -> scores; the first system's decide which studies are worst.
        annotations: Of the studies.
        generated: System -> target -> annotations.
        real: Modality -> annotations; modalities without findings have no notes.
        num: Number of random and of worst studies.
        seed: Of the choice.

    Returns:
        JSON-ready: ``title``, ``row``, ``place`` (index in the dataset), ``study_id``, ``truth``, and notes on the contents: ``real`` (modality
        -> note) and ``generated`` (system -> target -> note).
    """
    studies, rows = annotations.studies, []
    for title, row in shown_studies(next(iter(scores.values())), seed, num):
        truth, sides = studies.truth[row], studies.sides[row]
        true = [
            label + _side(code) for label, value, code in zip(CHEXPERT_LABELS, truth, sides, strict=True) if value == 1
        ]

        def note(table: AnnotationTable, row: int = row, truth: np.ndarray = truth, sides: np.ndarray = sides) -> str:
            return content_note(table.at([row]), truth, sides)

        rows.append(
            {
                "title": title,
                "row": row,
                "place": studies.places[row],
                "study_id": studies.ids[row],
                "truth": ", ".join(true),
                "real": {
                    name: note(real[name])
                    for name in direction.prompts + direction.targets
                    if name in real and "margin" in real[name].arrays
                },
                "generated": {
                    system: {
                        target: note(generated[system][target]) if "margin" in generated[system][target].arrays else ""
                        for target in direction.targets
                    }
                    for system in scores
                },
            }
        )
    return rows


def _side(code: int) -> str:
    sides = [side for side, bit in SIDES.items() if code & bit]
    return "" if not sides else " (both sides)" if len(sides) > 1 else f" ({sides[0]})"


def content_note(table: AnnotationTable, truth: np.ndarray, true_sides: np.ndarray) -> str:
    """Findings of one content against the truth ``[14]``: right, on the wrong side, missed, not true."""
    labels, sides = table.arrays["labels"][0], table.arrays["sides"][0]  # [14] each
    parts: dict[str, list[str]] = {"right": [], "wrong side": [], "missed": [], "not true": []}
    for k, label in enumerate(CHEXPERT_LABELS):
        found, true = labels[k] == 1, truth[k] == 1
        if found and true:
            # A side is wrong if both are known and differ.
            turned = sides[k] and true_sides[k] and sides[k] != true_sides[k]
            parts["wrong side" if turned else "right"].append(label + _side(sides[k]))
        elif label == "No Finding":
            continue  # the others say so
        elif true and not np.isnan(labels[k]):
            parts["missed"].append(label + _side(true_sides[k]))
        elif found and not np.isnan(truth[k]):
            parts["not true"].append(label + _side(sides[k]))
    return "\n".join(f"{name}: {', '.join(found)}" for name, found in parts.items() if found) or "nothing read"
