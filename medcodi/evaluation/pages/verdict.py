"""What the figures say, in sentences; and what must not be overlooked. For page and terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medcodi.evaluation.annotators.suitability import unfit_readers
from medcodi.evaluation.pages.catalogue import percent, pretty
from medcodi.evaluation.pages.summary import AGREEMENT, ALL, against_better

Results = dict[str, Any]


def verdict(results: Results) -> list[str]:
    """What the figures say, a sentence for each system, and for each pair of systems."""
    lines = []
    for name, told in results["systems"].items():
        judged = [(one, scores["primary"]) for one, scores in told["directions"].items() if scores["primary"]["model"]]
        prompted = [(one, primary) for one, primary in judged if primary["beats_shuffled"] is not None]
        if not prompted:
            lines.append(f"{name}: no direction could be judged by findings.")
            continue
        beats = sum(primary["beats_shuffled"] for _, primary in prompted)
        shares = {one: primary["fraction_of_ceiling"] for one, primary in prompted}
        reached = {one: share for one, share in shares.items() if share is not None}
        sentence = f"{name}: {beats} of {len(prompted)} directions follow their prompts (better than with shuffled prompts, interval above 0)"
        if reached:
            best, worst = max(reached, key=lambda one: reached[one]), min(reached, key=lambda one: reached[one])
            middle = float(np.median(list(reached.values())))
            sentence += f"; what they show is right to {100 * middle:.0f} % of what real studies allow (median)"
            if best != worst:
                sentence += f", from {100 * reached[worst]:.0f} % ({pretty(worst)}) to {100 * reached[best]:.0f} % ({pretty(best)})"
        lines.append(sentence + ".")
        lines += _verdict_of_sides(name, told) + _verdict_of_pairs(name, told)
    return lines + _verdict_of_prompts(results) + _verdict_of_systems(results)


def _range(shares: Sequence[float]) -> str:
    """``93 %``, or ``91 to 97 %``."""
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def _verdict_of_sides(name: str, told: dict[str, Any]) -> list[str]:
    figures = [
        target["metrics"]["side_accuracy"]
        for scores in told["directions"].values()
        if scores["prompts"]
        for target in scores["targets"].values()
        if "side_accuracy" in target["metrics"]
    ]
    if not figures:
        return []
    best = _range([one["ceiling"] for one in figures if one["ceiling"] is not None] or [1.0])
    return [
        f"{name}: the side of a finding is right in {_range([one['value'] for one in figures])} (in real targets: {best})."
    ]


def _verdict_of_pairs(name: str, told: dict[str, Any]) -> list[str]:
    shares = [
        pair["metrics"][AGREEMENT]["share_of_ceiling"]
        for scores in told["directions"].values()
        for pair in scores["coherence"].values()
        if pair["metrics"].get(AGREEMENT, {}).get("share_of_ceiling") is not None
    ]
    if not shares:
        return []
    return [f"{name}: findings of targets generated together agree (κ) to {_range(shares)} of what real pairs give."]


def _verdict_of_prompts(results: Results) -> list[str]:
    tests = against_better(results)
    known = {(test["system"], test["direction"]) for test in tests}
    lost = [one for one in results["comparisons"]["left_out"] if "against" in one and one["target"] == ALL]
    missing = {(one["system"], one["direction"]) for one in lost} - known
    told = f"{len(missing)} could not be set against all of their single prompts (see what was left out)"
    if not tests:
        return [f"Two prompts against the better one of them: {told}."] if missing else []
    better, worse = (sum(test["first_is"] == one for test in tests) for one in ("better", "worse"))
    kept = sum(bool(test["not_worse"]) for test in tests)
    return [
        f"Two prompts against the better one of them: no loss shown (interval reaches 0) in {kept} of {len(tests)} directions; "
        f"better in {better}, worse in {worse} (finding F1, permutation test, Holm-adjusted p < 0.05)"
        + (f"; {told}." if missing else ".")
    ]


def _verdict_of_systems(results: Results) -> list[str]:
    tests = [test for test in results["comparisons"]["systems"] if test["target"] == ALL]
    left_out = [one for one in results["comparisons"]["left_out"] if "systems" in one and one["target"] == ALL]
    lines = []
    for pair in dict.fromkeys(tuple(one["systems"]) for one in tests + left_out):
        own = [test for test in tests if tuple(test["systems"]) == pair]
        lost = sum(tuple(one["systems"]) == pair for one in left_out)
        better, worse = (sum(test["first_is"] == one for test in own) for one in ("better", "worse"))
        lines.append(
            f"{pair[0]} against {pair[1]}: {better} directions better, {worse} worse, {len(own) - better - worse} "
            "not told apart (finding F1, permutation test, Holm-adjusted p < 0.05)"
            + (f"; {lost} could not be compared (see what was left out)." if lost else ".")
        )
    return lines


def alarms(results: Results) -> list[str]:
    """What must not be overlooked: readers that do not know such data, parts of the studies only, exclusions, small numbers."""
    found = unfit_readers(results)
    for name, told in results["systems"].items():
        for one, coverage in told["coverage"].items():
            if coverage["scored"] < coverage["usable"]:
                found.append(
                    f"{name}, {pretty(one)}: {coverage['given']} of {coverage['usable']} studies were given, and the "
                    f"{coverage['scored']} that all systems have were scored."
                )
    if results["excluded"]:
        found.append(f"{len(results['excluded'])} contents were excluded; they are listed below, each with its reason.")
    if results["data"]["num_studies"] < 100:
        found.append(
            f"Only {results['data']['num_studies']} studies: the intervals are wide, and many metrics are left out."
        )
    return found
