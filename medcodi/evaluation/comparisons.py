"""Paired tests on common studies: each direction with several prompts beside its single ones, and systems beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from medcodi.evaluation.held_out import HeldOut
from medcodi.evaluation.materials import Material, NotComparableError, compare, on_common_findings
from medcodi.evaluation.pages.catalogue import shown
from medcodi.evaluation.scores import ScoringOptions, plain, value_of
from medcodi.evaluation.scoring import PRIMARY, DirectionScores
from medcodi.metrics.paired import holm
from medcodi.study import Direction

LEAST = 8  # common patients
LEVEL = 0.05  # of adjusted p-values
ALL_TARGETS = "all"  # the primary figure, averaged over the targets
EVERY = "every figure"  # in the list of what was left out


@dataclass
class Compared:
    """Paired tests, and those that could not be.

    Attributes:
        tests: JSON-ready rows: direction, ``against`` or ``systems``, target (``all``: averaged over the targets), metric, first, second,
            difference with its interval, p_value, p_holm (adjusted over all tests of the same metric in the same table), ``findings`` (how many
            both count, where the figure is of findings) and ``findings_left_out``. ``not_worse``: whether the interval reaches 0 or lies on
            the good side of it (None where neither more nor less is better). ``first_is``: better or worse, where the adjusted p-value is below
            0.05, or without a p-value the interval excludes 0; else alike.
        left_out: direction, ``against`` or ``systems``, target, metric, reason.
    """

    tests: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)


def _materials(scores: DirectionScores) -> dict[tuple[str, str], Material]:
    """(target, metric) -> what it is made of, the primary figure first."""
    primary = scores.primary_material
    found: dict[tuple[str, str], Material] = {} if primary is None else {(ALL_TARGETS, PRIMARY): primary}
    for target, one in scores.targets.items():
        # With one target the primary figure is that target's own.
        own = {name: made for name, made in one.materials.items() if name != PRIMARY or len(scores.targets) > 1}
        found |= {(target, name): made for name, made in own.items()}
    return found


def _places(scores: DirectionScores, rows: Sequence[int]) -> list[int]:
    """Where studies stand among those that a direction was scored on."""
    place = {row: number for number, row in enumerate(scores.rows)}
    return [place[row] for row in rows]


def _test(
    found: Compared,
    named: dict[str, Any],
    first: DirectionScores,
    second: DirectionScores,
    held: HeldOut,
    options: ScoringOptions,
) -> None:
    """Every figure of either, on the studies that both have: a test, or why there is none."""
    common = common_rows([first.rows, second.rows])
    patients = [held.patients[row] for row in common]
    if (num := len(set(patients))) < LEAST:
        reason = f"a paired test needs at least {LEAST} patients that both have; there are {num}"
        told = {"reason": reason, "needed": LEAST, "available": num}
        found.left_out.append({**named, "target": ALL_TARGETS, "metric": EVERY, **told})
        return
    made, others = _materials(first), _materials(second)
    for target, metric in dict.fromkeys([*made, *others]):
        which = {**named, "target": target, "metric": metric}
        one, other = made.get((target, metric)), others.get((target, metric))
        if one is None or other is None:
            missing = "first" if one is None else "second"
            found.left_out.append({**which, "reason": f"the {missing} has no such figure; it was left out there"})
            continue
        try:
            test = compare(
                one.take(_places(first, common)),
                other.take(_places(second, common)),
                patients,
                options.seed,
                options.bootstrap_samples,
                options.permutations,
            )
        except NotComparableError as error:
            found.left_out.append({**which, "reason": str(error)})
        else:
            found.tests.append({**which, **_finite(test)})


def _finite(test: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) if isinstance(value, float) else value for name, value in test.items()}


def _judged(found: Compared) -> Compared:
    """Each test with its p-value adjusted for all of the same metric in the same table, and with what it says."""
    for metric in dict.fromkeys(test["metric"] for test in found.tests):
        family = [test for test in found.tests if test["metric"] == metric]
        values = [float("nan") if test["p_value"] is None else test["p_value"] for test in family]
        for test, value in zip(family, holm(values), strict=True):
            test["p_holm"] = plain(value)
            test |= judgement(test)
    return found


def judgement(test: Mapping[str, Any]) -> dict[str, Any]:
    """``not_worse`` and ``first_is`` of a test that has its difference and ``p_holm``, by which way its metric is better."""
    better, difference = shown(test["metric"]).better, test["difference"]
    if better not in ("up", "down") or difference["value"] is None:
        return {"not_worse": None, "first_is": "alike"}
    sign = 1 if better == "up" else -1
    bounds = [difference[key] for key in ("low", "high") if difference[key] is not None]
    gains = sorted(sign * bound for bound in bounds)
    clear = bool(gains) and (gains[0] > 0 or gains[-1] < 0)
    if test["p_holm"] is not None:
        clear = test["p_holm"] < LEVEL
    gain = sign * difference["value"]
    first_is = "better" if clear and gain > 0 else "worse" if clear and gain < 0 else "alike"
    return {"not_worse": gains[-1] >= 0 if gains else None, "first_is": first_is}


def multi_prompt_tests(
    systems: Mapping[str, Mapping[Direction, DirectionScores]], held: HeldOut, options: ScoringOptions
) -> Compared:
    """Each direction with several prompts (first) against each of its single-prompt ones (second), same targets, of every system.

    The primary figure's tests also say ``against_better``: whether the single prompt is the better one of the direction's. They say so only
    where all of its single prompts were tested, and the better one is chosen on the studies and findings that all of them have.
    """
    found = Compared()
    for system, scores in systems.items():
        for direction, one in scores.items():
            if len(direction.prompts) < 2:
                continue
            singles = [Direction((prompt,), direction.targets) for prompt in direction.prompts]
            start = len(found.tests)
            for single in singles:
                named = {"system": system, "direction": str(direction), "against": str(single)}
                if single in scores:
                    _test(found, named, one, scores[single], held, options)
                else:
                    reason = f"{single} was not evaluated"
                    found.left_out.append({**named, "target": ALL_TARGETS, "metric": EVERY, "reason": reason})
            own = [test for test in found.tests[start:] if test["target"] == ALL_TARGETS]
            if len(own) == len(singles):
                better = _better([scores[single] for single in singles])
                for test in own:
                    test["against_better"] = None if better is None else test["against"] == str(better)
    return _judged(found)


def _better(singles: Sequence[DirectionScores]) -> Direction | None:
    """The one with the higher primary figure, on the studies and findings that all have; None where they have none."""
    common = common_rows([one.rows for one in singles])
    made = [one.primary_material for one in singles]
    cut = [part.take(_places(one, common)) for part, one in zip(made, singles, strict=True) if part is not None]
    if len(cut) < len(singles) or not common:
        return None
    try:
        shared = on_common_findings(*cut)
    except NotComparableError:
        return None
    values = [value_of(one.statistic(), len(common)) for one in shared]
    return singles[max(range(len(values)), key=lambda place: values[place])].direction


def system_tests(
    systems: Mapping[str, Mapping[Direction, DirectionScores]], held: HeldOut, options: ScoringOptions
) -> Compared:
    """Every pair of systems, direction by direction: rows with ``systems`` [first, second]."""
    found = Compared()
    for first, second in combinations(systems, 2):
        for direction, one in systems[first].items():
            if direction in systems[second]:
                named = {"direction": str(direction), "systems": [first, second]}
                _test(found, named, one, systems[second][direction], held, options)
    return _judged(found)


def common_rows(given: Sequence[Sequence[int]]) -> list[int]:
    """Studies that all of several systems gave."""
    return sorted(set.intersection(*(set(rows) for rows in given))) if given else []
