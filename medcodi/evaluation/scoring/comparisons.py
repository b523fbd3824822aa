"""Paired tests on common studies: directions with several prompts against their single ones, and systems against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.scoring.direction import DirectionScores
from medcodi.evaluation.scoring.figures import plain, value_of
from medcodi.evaluation.scoring.metrics import ALL_TARGETS, PRIMARY, metric_row
from medcodi.evaluation.scoring.statistics import NotComparableError, StudyStatistic, compare, on_common_findings
from medcodi.metrics.paired import holm
from medcodi.study import Direction

LEAST_PATIENTS = 8  # common to both
LEVEL = 0.05  # of adjusted p-values
EVERY_FIGURE = "every figure"  # in the list of what was left out
Scores = Mapping[str, Mapping[Direction, DirectionScores]]  # system -> direction -> scores


@dataclass
class Comparisons:
    """Paired tests, and the ones that could not be made."""

    # JSON-ready rows: direction, `against` or `systems`, target (`all`: averaged over the targets), metric,
    # first, second, difference with its interval, p_value, p_holm (adjusted over all tests of the same metric in the
    # same table), `findings` (how many both count, if the figure is of findings) and `findings_left_out`.
    # `not_worse`: whether the interval reaches 0 or lies on the good side of it (None if neither direction is
    # better). `first_is`: better or worse, if the adjusted p-value is below 0.05, or without a p-value the interval
    # excludes 0; else alike.
    tests: list[dict[str, Any]] = field(default_factory=list)
    # direction, `against` or `systems`, target, metric, reason
    left_out: list[dict[str, Any]] = field(default_factory=list)


def multi_prompt_tests(scores: Scores, patients: Sequence[str], config: ScoringConfig) -> Comparisons:
    """Each direction with several prompts (first) against each of its single-prompt ones (second), same targets, of every system.

    The primary figure's tests have ``against_better``: whether the single prompt is the better one of the direction's. It is given only
    if all of its single prompts were tested, and the better one is chosen on the studies and findings that all of them have.

    ``patients`` are those of all held-out studies.
    """
    comparisons = Comparisons()
    for system, directions in scores.items():
        for direction, own in directions.items():
            if len(direction.prompts) < 2:
                continue
            singles = [Direction((prompt,), direction.targets) for prompt in direction.prompts]
            start = len(comparisons.tests)
            for single in singles:
                named = {"system": system, "direction": str(direction), "against": str(single)}
                if single in directions:
                    _test(comparisons, named, own, directions[single], patients, config)
                else:
                    reason = f"{single} was not evaluated"
                    entry = {**named, "target": ALL_TARGETS, "metric": EVERY_FIGURE, "reason": reason}
                    comparisons.left_out.append(entry)
            primary = [test for test in comparisons.tests[start:] if test["target"] == ALL_TARGETS]
            if len(primary) == len(singles):
                better = _better([directions[single] for single in singles])
                for test in primary:
                    test["against_better"] = None if better is None else test["against"] == str(better)
    return _with_judgements(comparisons)


def system_tests(scores: Scores, patients: Sequence[str], config: ScoringConfig) -> Comparisons:
    """Every pair of systems, direction by direction: rows with ``systems`` [first, second]; arguments as above."""
    comparisons = Comparisons()
    for first, second in combinations(scores, 2):
        for direction, own in scores[first].items():
            if direction in scores[second]:
                named = {"direction": str(direction), "systems": [first, second]}
                _test(comparisons, named, own, scores[second][direction], patients, config)
    return _with_judgements(comparisons)


def common_rows(rows: Sequence[Sequence[int]]) -> list[int]:
    """Studies that are in all of several lists."""
    return sorted(set.intersection(*map(set, rows))) if rows else []


def _test(
    comparisons: Comparisons,
    named: dict[str, Any],
    first: DirectionScores,
    second: DirectionScores,
    patients: Sequence[str],
    config: ScoringConfig,
) -> None:
    """Every figure of either, on the studies that both have: a test, or why there is none."""
    common = common_rows([first.rows, second.rows])
    common_patients = [patients[row] for row in common]
    if (num := len(set(common_patients))) < LEAST_PATIENTS:
        reason = f"a paired test needs at least {LEAST_PATIENTS} patients that both have; there are {num}"
        numbers = {"reason": reason, "needed": LEAST_PATIENTS, "available": num}
        comparisons.left_out.append({**named, "target": ALL_TARGETS, "metric": EVERY_FIGURE, **numbers})
        return
    first_statistics, second_statistics = _statistics(first), _statistics(second)
    for target, metric in dict.fromkeys([*first_statistics, *second_statistics]):
        key = {**named, "target": target, "metric": metric}
        own, other = first_statistics.get((target, metric)), second_statistics.get((target, metric))
        if own is None or other is None:
            if metric_row(metric).table == "obedience":
                continue  # one of them has no record to obey
            missing = "first" if own is None else "second"
            reason = f"the {missing} has no such figure; it was left out there"
            comparisons.left_out.append({**key, "reason": reason})
            continue
        try:
            test = compare(
                own.take(_indices(first, common)),
                other.take(_indices(second, common)),
                common_patients,
                config.seed,
                config.bootstrap_samples,
                config.permutations,
            )
        except NotComparableError as error:
            comparisons.left_out.append({**key, "reason": str(error)})
        else:
            finite = {name: plain(value) if isinstance(value, float) else value for name, value in test.items()}
            comparisons.tests.append({**key, **finite})


def _statistics(scores: DirectionScores) -> dict[tuple[str, str], StudyStatistic]:
    """(target, metric) -> statistic, the primary figure first."""
    primary = scores.primary_statistic
    statistics: dict[tuple[str, str], StudyStatistic] = {} if primary is None else {(ALL_TARGETS, PRIMARY): primary}
    for target, target_scores in scores.targets.items():
        # With one target the primary figure is that target's.
        names = [name for name in target_scores.statistics if name != PRIMARY or len(scores.targets) > 1]
        statistics |= {(target, name): target_scores.statistics[name] for name in names}
    return statistics


def _indices(scores: DirectionScores, rows: Sequence[int]) -> list[int]:
    """Indices of studies among those that a direction is scored on."""
    index_of = {row: index for index, row in enumerate(scores.rows)}
    return [index_of[row] for row in rows]


def _better(singles: Sequence[DirectionScores]) -> Direction | None:
    """The one with the higher primary figure, on the studies and findings that all have; None if there are none."""
    common = common_rows([scores.rows for scores in singles])
    statistics = [
        statistic.take(_indices(scores, common))
        for scores in singles
        if (statistic := scores.primary_statistic) is not None
    ]
    if len(statistics) < len(singles) or not common:
        return None
    try:
        shared = on_common_findings(*statistics)
    except NotComparableError:
        return None
    values = [value_of(statistic.statistic(), len(common)) for statistic in shared]
    return singles[max(range(len(values)), key=lambda index: values[index])].direction


def _with_judgements(comparisons: Comparisons) -> Comparisons:
    """Adjust each p-value over all tests of the same metric in the table, and add what each test says."""
    for metric in dict.fromkeys(test["metric"] for test in comparisons.tests):
        family = [test for test in comparisons.tests if test["metric"] == metric]
        values = [float("nan") if test["p_value"] is None else test["p_value"] for test in family]
        for test, value in zip(family, holm(values), strict=True):
            test["p_holm"] = plain(value)
            test |= judgement(test)
    return comparisons


def judgement(test: Mapping[str, Any]) -> dict[str, Any]:
    """``not_worse`` and ``first_is`` of a test with its difference and ``p_holm``, by the metric's better direction."""
    better, difference = metric_row(test["metric"]).better, test["difference"]
    if better not in ("up", "down") or difference["value"] is None:
        return {"not_worse": None, "first_is": "alike"}
    sign = 1 if better == "up" else -1
    gains = sorted(sign * difference[key] for key in ("low", "high") if difference[key] is not None)
    # Different by the adjusted p-value, or without one by the interval.
    clear = bool(gains) and (gains[0] > 0 or gains[-1] < 0)
    if test["p_holm"] is not None:
        clear = test["p_holm"] < LEVEL
    gain = sign * difference["value"]
    first_is = "better" if clear and gain > 0 else "worse" if clear and gain < 0 else "alike"
    return {"not_worse": gains[-1] >= 0 if gains else None, "first_is": first_is}
