"""``score``: from the annotations of an evaluation to its results, and to the studies that its page shows. It reads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from medcodi.evaluation.annotations import SIDES, Annotations, AnnotationTable
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.scoring.case import ScoredStudies
from medcodi.evaluation.scoring.comparisons import multi_prompt_tests, system_tests
from medcodi.evaluation.scoring.direction import DirectionScores, score_direction
from medcodi.evaluation.scoring.metrics import PRIMARY
from medcodi.evaluation.scoring.statistics import F1Statistic
from medcodi.metrics.text import TextScorer
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Direction


def score(
    annotations: Annotations, config: EvaluateConfig, on_direction: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Compute every figure.

    Args:
        annotations: Tables of every system, direction and target, and of the real contents.
        config: Metrics, resamples, seed; everything else of it is already in the annotations.
        on_direction: Called after each direction of each system.

    Returns:
        The content of ``results.json`` (schema in docs/EVALUATION.md); the same for the same annotations and configuration.
    """
    metadata, studies = annotations.metadata, annotations.studies
    scores: dict[str, dict[Direction, DirectionScores]] = {}
    # Every direction of every system.
    with TextScorer(meteor=config.meteor) if "text" in config.metrics else nullcontext() as scorer:
        for system in metadata["systems"]:
            scores[system] = {}
            for direction, rows in annotations.directions(system).items():
                scored = ScoredStudies(studies, rows["scored"], config, metadata["protocol"]["data"]["image_size"])
                generated = {target: annotations.generated(system, direction, target) for target in direction.targets}
                scores[system][direction] = score_direction(
                    direction, scored, generated, _real(annotations, direction), scorer, metadata["geometry"]
                )
                on_direction()
        # Directions against each other, systems against each other.
        prompts, systems = (test(scores, studies.patients, config) for test in (multi_prompt_tests, system_tests))
    return {
        **metadata["protocol"],
        "systems": {name: _system(annotations, name, scores[name]) for name in scores},
        "comparisons": {
            "multi_prompt": prompts.tests,
            "systems": systems.tests,
            "left_out": prompts.left_out + systems.left_out,
        },
        "excluded": metadata["excluded"],
        "directions_left_out": metadata.get("directions_left_out", []),
        "pictures": _pictures(annotations, scores, config),
        "scored_sha256": metadata["scored_sha256"],
        "complete": True,
    }


def _real(annotations: Annotations, direction: Direction) -> dict[str, Any]:
    tables = {name: annotations.real(name) for name in direction.prompts + direction.targets}
    return {name: table for name, table in tables.items() if table is not None}


def _system(annotations: Annotations, name: str, scores: dict[Direction, DirectionScores]) -> dict[str, Any]:
    """One system of ``results.json``: its description, how many studies it gave, and its scores."""
    stored, directions = annotations.metadata["systems"][name], annotations.directions(name)
    return {
        **stored["description"],
        "coverage": {
            str(direction): {
                "given": len(rows["given"]),
                "scored": len(rows["scored"]),
                "usable": len(annotations.studies.having(direction.prompts + direction.targets)),
            }
            for direction, rows in directions.items()
        },
        "image_sizes": stored["image_sizes"],
        "directions": {str(direction): own.to_dict() for direction, own in scores.items()},
    }


# ---- the studies that the page shows ---------------------------------------------------------------------------------
def _pictures(
    annotations: Annotations, scores: dict[str, dict[Direction, DirectionScores]], config: EvaluateConfig
) -> dict[str, list[dict[str, Any]]]:
    """Direction -> the studies that the page shows."""
    if not config.pictures:
        return {}
    pictures = {}
    for direction in dict.fromkeys(direction for system in scores.values() for direction in system):
        own = {name: system[direction] for name, system in scores.items() if direction in system}
        generated = {
            name: {target: annotations.generated(name, direction, target) for target in direction.targets}
            for name in own
        }
        pictures[str(direction)] = direction_pictures(
            direction, own, annotations, generated, _real(annotations, direction), num=config.pictures, seed=config.seed
        )
    return pictures


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
    random = [int(index) for index in order[:num]]
    wrong = wrong_findings(scores)
    worst = [index for index in sorted(order.tolist(), key=lambda index: -wrong[index]) if index not in random][:num]
    return [("random study", scores.rows[index]) for index in random] + [
        (f"worst study: {wrong[index]:.0f} of its findings wrong", scores.rows[index])
        for index in worst
        if wrong[index] > 0
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
        present, true = labels[k] == 1, truth[k] == 1
        if present and true:
            # A side is wrong if both are known and differ.
            turned = sides[k] and true_sides[k] and sides[k] != true_sides[k]
            parts["wrong side" if turned else "right"].append(label + _side(sides[k]))
        elif label == "No Finding":
            continue  # the others say so
        elif true and not np.isnan(labels[k]):
            parts["missed"].append(label + _side(true_sides[k]))
        elif present and not np.isnan(truth[k]):
            parts["not true"].append(label + _side(sides[k]))
    return "\n".join(f"{name}: {', '.join(findings)}" for name, findings in parts.items() if findings) or "nothing read"
