"""Paired tests on common studies: each direction with several prompts beside its single ones, and systems beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from medcodi.evaluation.held_out import HeldOut
from medcodi.evaluation.materials import Material, compare
from medcodi.evaluation.scores import ScoringOptions, plain
from medcodi.evaluation.scoring import PRIMARY, DirectionScores
from medcodi.metrics.paired import holm
from medcodi.study import Direction

LEAST = 8  # common studies
ALL_TARGETS = "all"  # the primary figure, averaged over the targets


def _materials(scores: DirectionScores) -> dict[tuple[str, str], Material]:
    """(target, metric) -> what it is made of, the primary figure first."""
    primary = scores.primary_material
    found: dict[tuple[str, str], Material] = {} if primary is None else {(ALL_TARGETS, PRIMARY): primary}
    for target, one in scores.targets.items():
        # With one target the primary figure is that target's own.
        shown = {name: made for name, made in one.materials.items() if name != PRIMARY or len(scores.targets) > 1}
        found |= {(target, name): made for name, made in shown.items()}
    return found


def _tests(
    first: DirectionScores, second: DirectionScores, held: HeldOut, options: ScoringOptions
) -> Iterator[dict[str, Any]]:
    """Every figure that both have, on the studies that both have."""
    common = sorted(set(first.rows) & set(second.rows))
    if len({held.patients[row] for row in common}) < LEAST:
        return
    places = [{row: place for place, row in enumerate(one.rows)} for one in (first, second)]
    taken = [[place[row] for row in common] for place in places]
    patients = [held.patients[row] for row in common]
    made, others = _materials(first), _materials(second)
    for (target, metric), material in made.items():
        other = others.get((target, metric))
        if other is None:
            continue
        test = compare(
            material.take(taken[0]),
            other.take(taken[1]),
            patients,
            options.seed,
            options.bootstrap_samples,
            options.permutations,
        )
        if test is not None:
            yield {"target": target, "metric": metric, **_finite(test)}


def _finite(test: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) if isinstance(value, float) else value for name, value in test.items()}


def _adjusted(tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each with ``p_holm``: its p-value adjusted for all tests of the same metric in the same table."""
    for metric in dict.fromkeys(test["metric"] for test in tests):
        family = [test for test in tests if test["metric"] == metric]
        values = [float("nan") if test["p_value"] is None else test["p_value"] for test in family]
        for test, value in zip(family, holm(values), strict=True):
            test["p_holm"] = plain(value)
    return tests


def multi_prompt_tests(
    scores: Mapping[Direction, DirectionScores], held: HeldOut, options: ScoringOptions
) -> list[dict[str, Any]]:
    """Each direction with several prompts (first) against each of its single-prompt ones (second), same targets.

    Returns:
        JSON-ready rows: direction, against, target (``all``: averaged over the targets), metric, first, second, difference with its
        interval, p_value, p_holm, not_worse (for metrics where more is better); the primary figure's also say ``against_better``:
        whether the single prompt is the better one of the direction's.
    """
    tests = []
    for direction, one in scores.items():
        if len(direction.prompts) < 2:
            continue
        for prompt in direction.prompts:
            single = Direction((prompt,), direction.targets)
            if single in scores:
                named = {"direction": str(direction), "against": str(single)}
                tests += [named | test for test in _tests(one, scores[single], held, options)]
    for direction in dict.fromkeys(test["direction"] for test in tests):
        own = [test for test in tests if test["direction"] == direction and test["target"] == ALL_TARGETS]
        best = max(own, key=lambda test: -1.0 if test["second"] is None else test["second"], default=None)
        for test in own:
            test["against_better"] = test is best
    return _adjusted(tests)


def system_tests(
    systems: Mapping[str, Mapping[Direction, DirectionScores]], held: HeldOut, options: ScoringOptions
) -> list[dict[str, Any]]:
    """Every pair of systems, direction by direction: rows as of :func:`multi_prompt_tests`, with ``systems`` [first, second]."""
    tests = []
    for first, second in combinations(systems, 2):
        for direction, one in systems[first].items():
            if direction in systems[second]:
                named = {"direction": str(direction), "systems": [first, second]}
                tests += [named | test for test in _tests(one, systems[second][direction], held, options)]
    return _adjusted(tests)


def common_rows(given: Sequence[Sequence[int]]) -> list[int]:
    """Studies that all of several systems gave."""
    return sorted(set.intersection(*(set(rows) for rows in given))) if given else []
