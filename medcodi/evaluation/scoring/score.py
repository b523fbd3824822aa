"""``score``: from the annotations of an evaluation to its results. It reads nothing else; the same annotations give the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medcodi.evaluation.annotations import Annotations
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.scoring.case import ScoredStudies
from medcodi.evaluation.scoring.comparisons import multi_prompt_tests, system_tests
from medcodi.evaluation.scoring.direction import DirectionScores, score_direction
from medcodi.evaluation.scoring.pictures import direction_pictures
from medcodi.metrics.text import TextScorer
from medcodi.study import Direction


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
    with TextScorer(meteor=config.meteor) as scorer:
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
        "directions": {str(direction): one.to_dict() for direction, one in scores.items()},
    }


def _pictures(
    annotations: Annotations, scores: dict[str, dict[Direction, DirectionScores]], config: EvaluateConfig
) -> dict[str, list[dict[str, Any]]]:
    """Direction -> the studies that the page shows."""
    if not config.pictures:
        return {}
    found = {}
    for direction in dict.fromkeys(direction for system in scores.values() for direction in system):
        own = {name: system[direction] for name, system in scores.items() if direction in system}
        generated = {
            name: {target: annotations.generated(name, direction, target) for target in direction.targets}
            for name in own
        }
        found[str(direction)] = direction_pictures(
            direction, own, annotations, generated, _real(annotations, direction), num=config.pictures, seed=config.seed
        )
    return found
