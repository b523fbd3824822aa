"""Summary of the figures for page and terminal: one row per direction, and a verdict in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medcodi.evaluation.report.field_tables import verdict_of_fields
from medcodi.evaluation.report.wording import (
    NO_FINDING,
    VERDICT_SHADE,
    Results,
    beside_macro,
    counted_findings,
    directions,
    interval,
    micro_f1,
    number,
    order_of,
    percent,
    pretty,
    several,
    share,
    share_of_ceiling,
    signed,
)
from medcodi.evaluation.scoring.metrics import ALL_TARGETS
from medcodi.pages.page import Figure, Table
from medcodi.study import CHEXPERT_LABELS

AGREEMENT = "finding_kappa"
ON_PAGE_ONLY = ("studies", "ceiling", "prompts shuffled")  # columns


# ---- one row per direction -------------------------------------------------------------------------------------------
def summary_table(results: Results) -> Table:
    """Direction -> primary figure, ceiling, what the prompt shows, sides, two prompts against one, agreement, floor."""
    pairs = {(test["system"], test["direction"]): test for test in against_better(results)}
    system_column = ("system",) if several(results) else ()
    rows = [
        (
            pretty(name),
            *((system,) if several(results) else ()),
            Figure(text=str(scores["num_studies"]), value=scores["num_studies"]),
            *_primary(scores),
            _sides(scores),
            _against_one(pairs.get((system, name))),
            _agreement(scores, order_of(results, system, name)),
            *_shuffled(scores["primary"]),
        )
        for system, name, scores in directions(results)
    ]
    columns = (
        "direction", *system_column, "studies", "finding F1", "ceiling", "of ceiling", "legible in the prompt", "side right",
        "two prompts − better one", "targets agree, of real", "prompts shuffled", "follows the prompt",
    )  # fmt: skip
    return Table(columns=columns, rows=rows, left=1 + len(system_column))


def terminal_table(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The summary for a terminal, which is narrow: columns and rows of text, the bounds of each figure below it."""
    table = summary_table(results)
    chosen = [index for index, column in enumerate(table.columns) if column not in ON_PAGE_ONLY]
    rows = [
        tuple("\n".join(filter(None, (row[index].text, row[index].below))) for index in chosen) for row in table.cells()
    ]
    return tuple(table.columns[index] for index in chosen), rows


def against_better(results: Results) -> list[dict[str, Any]]:
    """Each direction with two prompts against the better of its single prompts: the paired tests of the primary figure."""
    tests = results["comparisons"]["multi_prompt"]
    return [test for test in tests if test["target"] == ALL_TARGETS and test.get("against_better")]


def _primary(scores: dict[str, Any]) -> tuple[Figure, ...]:
    """Figure, ceiling, share of the ceiling, what annotators see in the prompts."""
    primary, prompted = scores["primary"], bool(scores["prompts"])
    floor = (primary["shuffled"] or {}).get("value")
    figure = {**(primary["model"] or {}), "ceiling": primary["ceiling"], "floor": floor}
    # The share of the ceiling, where the direction has earned one; else the reason.
    reached, reason = share_of_ceiling(scores)
    low, high = primary.get("fraction_low"), primary.get("fraction_high")
    bounds = reason if reached is None or low is None else f"[{percent(low, '')}, {percent(high)}]"
    legible = primary.get("prompt_reader") or {}
    shade = share(figure) if prompted else None
    beside = "\n".join(filter(None, (interval(figure), beside_macro(scores))))
    return (
        Figure(text=number(figure.get("value")), value=figure.get("value"), below=beside, shade=shade),
        Figure(text=number(primary["ceiling"]), value=primary["ceiling"]),
        Figure(text=percent(reached), value=reached, strong=True, below=bounds),
        Figure(text=number(legible.get("value")), value=legible.get("value"), below=interval(legible)),
    )


def _sides(scores: dict[str, Any]) -> Figure:
    """How often the side is right, of each target."""
    figures = [target["metrics"].get("side_accuracy") for target in scores["targets"].values()]
    known = [figure for figure in figures if figure and figure["value"] is not None]
    if not known:
        return Figure(text="–")
    values = [figure["value"] for figure in known]
    return Figure(text=" · ".join(map(percent, values)), value=min(values), below="\n".join(map(interval, known)))


def _against_one(test: dict[str, Any] | None) -> Figure:
    """Two prompts minus the better one; coloured if the paired test tells them apart."""
    if test is None:
        return Figure(text="–")
    difference, shade = test["difference"], VERDICT_SHADE[test["first_is"]]
    return Figure(text=signed(difference["value"]), value=difference["value"], below=interval(difference), shade=shade)


def _agreement(scores: dict[str, Any], order: str) -> Figure:
    """How far the findings of targets of one generation agree, as a share of what real pairs give; below it their order."""
    figures = [pair["metrics"].get(AGREEMENT) for pair in scores["coherence"].values()]
    shares = [figure["share_of_ceiling"] for figure in figures if figure and figure.get("share_of_ceiling") is not None]
    text = " · ".join(map(percent, shares)) or "–"
    return Figure(text=text, value=min(shares, default=None), below=order)


def _shuffled(primary: dict[str, Any]) -> tuple[Figure, ...]:
    """The floor; whether the figure is above it, and how far."""
    floor, difference = primary["shuffled"] or {}, primary["difference"] or {}
    verdict = {True: "yes", False: "no", None: "–"}[primary["beats_shuffled"]]
    gap = "" if primary["beats_shuffled"] is None else f"{signed(difference['value'])}\n{interval(difference)}".strip()
    return (
        Figure(text=number(floor.get("value")), value=floor.get("value"), below=interval(floor)),
        Figure(text=verdict, value=difference.get("value"), below=gap),
    )


# ---- sentences -------------------------------------------------------------------------------------------------------
def verdict(results: Results) -> list[str]:
    """The figures in sentences: of each system, of two prompts against one, of each pair of systems."""
    lines = []
    for name, system in results["systems"].items():
        prompted = {
            direction: scores
            for direction, scores in system["directions"].items()
            if scores["prompts"] and scores["primary"]["model"] and scores["primary"]["beats_shuffled"] is not None
        }
        if not prompted:
            lines += [f"{name}: no direction could be judged by findings.", *verdict_of_fields(name, system)]
            continue
        lines.append(_verdict_of_system(name, prompted))
        lines += _verdict_of_sides(name, system) + _verdict_of_pairs(name, system) + verdict_of_fields(name, system)
    return lines + _verdict_of_prompts(results) + _verdict_of_systems(results)


def _verdict_of_system(name: str, prompted: dict[str, dict[str, Any]]) -> str:
    """How many directions follow their prompts; of those, the figures and how near they come to the ceiling."""
    follow = {name: scores for name, scores in prompted.items() if scores["primary"]["beats_shuffled"]}
    sentence = (
        f"{name}: {len(follow)} of {len(prompted)} directions follow their prompts "
        "(better than with shuffled prompts, interval above 0)"
    )
    known = {name: share for name, scores in prompted.items() if (share := share_of_ceiling(scores)[0]) is not None}
    if not known:
        reason = f"only {NO_FINDING} counts" if follow else "none is above its floor"
        return f"{sentence}; no share of what real studies allow is stated, because {reason}."
    best, worst = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    # Of those that follow, and of no others.
    subject = "what they show" if len(known) == len(prompted) else f"what {len(known)} of them show"
    sentence += f"; {subject} is right to {100 * float(np.median(list(known.values()))):.0f} % of what real studies allow (median)"
    if best != worst:
        sentence += f", from {100 * known[worst]:.0f} % ({pretty(worst)}) to {100 * known[best]:.0f} % ({pretty(best)})"
    return f"{sentence}: {_figures([prompted[direction] for direction in known])}."


def _figures(directions: Sequence[dict[str, Any]]) -> str:
    """Medians over directions of macro and micro F1 and the floor, and how many findings count: a share never stands alone."""
    medians = {
        "macro F1": [scores["primary"]["model"]["value"] for scores in directions],
        "micro F1": [micro for scores in directions if (micro := micro_f1(scores)) is not None],
        "prompts shuffled": [scores["primary"]["shuffled"]["value"] for scores in directions],
    }
    text = ", ".join(f"{name} {number(float(np.median(values)))}" for name, values in medians.items() if values)
    counts = [len(labels) for scores in directions for labels in counted_findings(scores).values()]
    if not counts:
        return text
    least, most = min(counts), max(counts)
    return (
        f"{text}, over {least if least == most else f'{least} to {most}'} of {len(CHEXPERT_LABELS)} findings per target"
    )


def _range(shares: Sequence[float]) -> str:
    """``93 %``, or ``91 to 97 %``."""
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def _verdict_of_sides(name: str, system: dict[str, Any]) -> list[str]:
    figures = [
        target["metrics"]["side_accuracy"]
        for scores in system["directions"].values()
        if scores["prompts"]
        for target in scores["targets"].values()
        if "side_accuracy" in target["metrics"]
    ]
    if not figures:
        return []
    values = _range([figure["value"] for figure in figures])
    ceilings = _range([figure["ceiling"] for figure in figures if figure["ceiling"] is not None] or [1.0])
    return [f"{name}: the side of a finding is right in {values} (in real targets: {ceilings})."]


def _verdict_of_pairs(name: str, system: dict[str, Any]) -> list[str]:
    shares = [
        pair["metrics"][AGREEMENT]["share_of_ceiling"]
        for scores in system["directions"].values()
        for pair in scores["coherence"].values()
        if pair["metrics"].get(AGREEMENT, {}).get("share_of_ceiling") is not None
    ]
    if not shares:
        return []
    return [f"{name}: findings of targets of one generation agree (κ) to {_range(shares)} of what real pairs give."]


def _verdict_of_prompts(results: Results) -> list[str]:
    tests = against_better(results)
    known = {(test["system"], test["direction"]) for test in tests}
    left_out = [
        entry for entry in results["comparisons"]["left_out"] if "against" in entry and entry["target"] == ALL_TARGETS
    ]
    missing = {(entry["system"], entry["direction"]) for entry in left_out} - known
    incomplete = f"{len(missing)} could not be set against all of their single prompts (see what was left out)"
    if not tests:
        return [f"Two prompts against the better one of them: {incomplete}."] if missing else []
    better, worse = (sum(test["first_is"] == word for test in tests) for word in ("better", "worse"))
    not_worse = sum(bool(test["not_worse"]) for test in tests)
    return [
        f"Two prompts against the better one of them: no loss shown (interval reaches 0) in {not_worse} of {len(tests)} directions; "
        f"better in {better}, worse in {worse} (finding F1, permutation test, Holm-adjusted p < 0.05)"
        + (f"; {incomplete}." if missing else ".")
    ]


def _verdict_of_systems(results: Results) -> list[str]:
    tests = [test for test in results["comparisons"]["systems"] if test["target"] == ALL_TARGETS]
    left_out = [
        entry for entry in results["comparisons"]["left_out"] if "systems" in entry and entry["target"] == ALL_TARGETS
    ]
    lines = []
    for pair in dict.fromkeys(tuple(entry["systems"]) for entry in tests + left_out):
        own = [test for test in tests if tuple(test["systems"]) == pair]
        missing = sum(tuple(entry["systems"]) == pair for entry in left_out)
        better, worse = (sum(test["first_is"] == word for test in own) for word in ("better", "worse"))
        lines.append(
            f"{pair[0]} against {pair[1]}: {better} directions better, {worse} worse, {len(own) - better - worse} "
            "not shown to differ (finding F1, permutation test, Holm-adjusted p < 0.05)"
            + (f"; {missing} could not be compared (see what was left out)." if missing else ".")
        )
    return lines
