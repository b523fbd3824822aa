"""The figures that decide, one row a direction: right findings, sides, the prompt's use, agreement of targets; for page and terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medcodi.evaluation.pages.catalogue import interval, number, percent, pretty, share
from medcodi.pages.page import Figure, Table

Results = dict[str, Any]
ALL = "all"
AGREEMENT = "finding_kappa"
VERDICT_SHADE = {"better": 1.0, "alike": None, "worse": 0.0}
ON_PAGE_ONLY = ("studies", "ceiling", "prompts shuffled")  # columns


def directions(results: Results) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(system, direction, scores), systems within directions."""
    names = dict.fromkeys(name for system in results["systems"].values() for name in system["directions"])
    for name in names:
        for system, told in results["systems"].items():
            if name in told["directions"]:
                yield system, name, told["directions"][name]


def several(results: Results) -> bool:
    """Whether there are several systems, so that each row must name its own."""
    return len(results["systems"]) > 1


def against_better(results: Results) -> list[dict[str, Any]]:
    """Each direction with two prompts beside the better one of its single prompts: the paired tests of the primary figure."""
    tests = results["comparisons"]["multi_prompt"]
    return [test for test in tests if test["target"] == ALL and test.get("against_better")]


def summary_table(results: Results) -> Table:
    """Direction -> primary figure, ceiling, what the prompt shows, sides, two prompts beside one, agreement, shuffled prompts."""
    pairs = {(test["system"], test["direction"]): test for test in against_better(results)}
    rows = [
        (
            pretty(name),
            *((system,) if several(results) else ()),
            Figure(text=str(scores["num_studies"]), value=scores["num_studies"]),
            *_primary(scores),
            _sides(scores),
            _beside_one(pairs.get((system, name))),
            _agreement(scores),
            *_shuffled(scores["primary"]),
        )
        for system, name, scores in directions(results)
    ]
    columns = (
        "direction",
        *(("system",) if several(results) else ()),
        "studies",
        "finding F1",
        "ceiling",
        "of ceiling",
    )
    columns += ("legible in the prompt", "side right", "two prompts − better one", "targets agree, of real")
    columns += ("prompts shuffled", "follows the prompt")
    return Table(columns=columns, rows=rows, left=2 if several(results) else 1)


def _primary(scores: dict[str, Any]) -> tuple[Figure, ...]:
    """Figure, ceiling, share of the ceiling, what a reader sees in the prompts."""
    primary, prompted = scores["primary"], bool(scores["prompts"])
    floor = (primary["shuffled"] or {}).get("value")
    whole = {**(primary["model"] or {}), "ceiling": primary["ceiling"], "floor": floor}
    reached = primary["fraction_of_ceiling"] if prompted else None
    bounds = {"low": primary.get("fraction_low"), "high": primary.get("fraction_high")}
    legible = primary.get("prompt_reader") or {}
    return (
        Figure(
            text=number(whole.get("value")),
            value=whole.get("value"),
            below=interval(whole),
            shade=share(whole) if prompted else None,
        ),
        Figure(text=number(primary["ceiling"]), value=primary["ceiling"]),
        Figure(
            text=percent(reached),
            value=reached,
            strong=True,
            below=""
            if reached is None or bounds["low"] is None
            else f"[{percent(bounds['low'], '')}, {percent(bounds['high'])}]",
        ),
        Figure(text=number(legible.get("value")), value=legible.get("value"), below=interval(legible)),
    )


def _sides(scores: dict[str, Any]) -> Figure:
    """How often the side is right, of each target."""
    told = [one["metrics"].get("side_accuracy") for one in scores["targets"].values()]
    values = [one["value"] for one in told if one and one["value"] is not None]
    if not values:
        return Figure(text="–")
    below = "\n".join(interval(one) for one in told if one and one["value"] is not None)
    return Figure(text=" · ".join(percent(value) for value in values), value=min(values), below=below)


def _beside_one(test: dict[str, Any] | None) -> Figure:
    """Two prompts minus the better one of them; painted where the paired test tells them apart."""
    if test is None:
        return Figure(text="–")
    difference = test["difference"]
    shade = VERDICT_SHADE[test["first_is"]]
    return Figure(text=signed(difference["value"]), value=difference["value"], below=interval(difference), shade=shade)


def _agreement(scores: dict[str, Any]) -> Figure:
    """How far the findings of targets that are generated together agree, as a share of what real pairs give."""
    told = [one["metrics"].get(AGREEMENT) for one in scores["coherence"].values()]
    shares = [one["share_of_ceiling"] for one in told if one and one.get("share_of_ceiling") is not None]
    return Figure(text=" · ".join(map(percent, shares)) or "–", value=min(shares, default=None))


def _shuffled(primary: dict[str, Any]) -> tuple[Figure, ...]:
    """The floor; whether the figure lies above it, and how far."""
    floor, difference = primary["shuffled"] or {}, primary["difference"] or {}
    verdict = {True: "yes", False: "no", None: "–"}[primary["beats_shuffled"]]
    gap = "" if primary["beats_shuffled"] is None else f"{signed(difference['value'])}\n{interval(difference)}".strip()
    return (
        Figure(text=number(floor.get("value")), value=floor.get("value"), below=interval(floor)),
        Figure(text=verdict, value=difference.get("value"), below=gap),
    )


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return number(value) if value is None else ("+" if value >= 0 else "−") + number(abs(value))


def terminal_table(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table for a terminal, where room is short: columns and rows of text; the bounds of each figure stand below it."""
    table = summary_table(results)
    chosen = [place for place, column in enumerate(table.columns) if column not in ON_PAGE_ONLY]
    rows = [
        tuple("\n".join(filter(None, (row[place].text, row[place].below))) for place in chosen) for row in table.cells()
    ]
    return tuple(table.columns[place] for place in chosen), rows
