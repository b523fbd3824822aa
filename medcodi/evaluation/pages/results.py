"""The page of an evaluation, as a reviewer reads it: verdict, matrix, ranges, comparisons, coherence, pictures, protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcodi.evaluation.held_out import HeldOut
from medcodi.evaluation.pages.catalogue import number, pretty, shown
from medcodi.evaluation.pages.page import Head, Plot, Section, write_page
from medcodi.evaluation.pages.pictures import RULE, picture_rows
from medcodi.evaluation.pages.plots import Range, difference_plot, range_plot
from medcodi.evaluation.pages.tables import (
    ALL,
    coherence_table,
    comparison_table,
    directions,
    excluded_table,
    finding_tables,
    flag_table,
    left_out_table,
    matrix_table,
    provenance_tables,
    summary_table,
)
from medcodi.evaluation.reading import Readers
from medcodi.modality import modality
from medcodi.study import Direction

if TYPE_CHECKING:
    from medcodi.evaluation.matrix import Scored

Results = dict[str, Any]
PLOTTED = ("side_accuracy", "finding_auroc", "bleu_4", "cider")
_EXPLAINED = (
    "Finding F1 is the mean over findings (macro), averaged over the targets of a direction: findings read from what was generated (images: "
    "a classifier trained on real images; reports: a labeler) against the truth of the study that prompted it.\n"
    "Ceiling: the same readers on the real targets of the same studies; no generator should be asked for more. Floor: prompts shuffled, that is the "
    "same generations against other patients' truth. Colours run from the floor (red) to the ceiling (green). "
    "Brackets: 95 % bootstrap interval over patients."
)


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
        reached = {one: primary["fraction_of_ceiling"] for one, primary in prompted if primary["fraction_of_ceiling"]}
        sentence = f"{name}: {beats} of {len(prompted)} directions follow their prompts (better than with shuffled prompts, interval above 0)"
        if reached:
            best, worst = max(reached, key=lambda one: reached[one]), min(reached, key=lambda one: reached[one])
            middle = float(np.median(list(reached.values())))
            sentence += f"; what they show is right to {100 * middle:.0f} % of what real studies allow (median)"
            if best != worst:
                sentence += f", from {100 * reached[worst]:.0f} % ({pretty(worst)}) to {100 * reached[best]:.0f} % ({pretty(best)})"
        lines.append(sentence + ".")
    lines += _verdict_of_prompts(results) + _verdict_of_systems(results)
    return lines


def _verdict_of_prompts(results: Results) -> list[str]:
    tests = [test for test in results["comparisons"]["multi_prompt"] if test["target"] == ALL]
    if not tests:
        return []
    better = sum(test["difference"]["low"] is not None and test["difference"]["low"] > 0 for test in tests)
    worse = sum(not test["not_worse"] for test in tests)
    return [
        f"Two prompts against one: better in {better}, worse in {worse} and alike in {len(tests) - better - worse} "
        f"of {len(tests)} comparisons (paired, finding F1)."
    ]


def _verdict_of_systems(results: Results) -> list[str]:
    tests = [test for test in results["comparisons"]["systems"] if test["target"] == ALL]
    lines = []
    for pair in dict.fromkeys(tuple(test["systems"]) for test in tests):
        own = [test for test in tests if tuple(test["systems"]) == pair]
        clear = [test for test in own if test.get("p_holm") is not None and test["p_holm"] < 0.05]
        first = sum(test["difference"]["value"] > 0 for test in clear)
        lines.append(
            f"{pair[0]} against {pair[1]}: {first} directions better, {len(clear) - first} worse, {len(own) - len(clear)} "
            "not told apart (finding F1, permutation test, Holm-adjusted p < 0.05)."
        )
    return lines


def alarms(results: Results) -> list[str]:
    """What must not be overlooked: parts of the studies only, exclusions, small numbers."""
    found = []
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


def _head(results: Results) -> Head:
    data, systems = results["data"], results["systems"]
    count = len({name for told in systems.values() for name in told["directions"]})
    kinds = {name: told.get("model") or "files" for name, told in systems.items()}
    named = ", ".join(name if kinds[name] in (name, "files") else f"{name} ({kinds[name]})" for name in systems)
    return Head(
        title=f"Evaluation of {named}",
        lead=f"{data['num_studies']} held-out studies of {data['num_patients']} patients from {data['name']}, "
        f"at {data['image_size']} pixels; truth from {data['truth']}.",
        verdict=verdict(results),
        facts=[
            (f"{data['num_studies']:,}", "studies"),
            (f"{data['num_patients']:,}", "patients"),
            (str(count), "directions"),
            (str(len(systems)), "system" if len(systems) == 1 else "systems"),
            (", ".join(results["readers"]["extractors"]) or "none", "feature extractors"),
            (str(results["config"]["seed"]), "seed"),
        ],
    )


def _label(direction: str) -> str:
    """Of a direction in a plot, where room is short."""
    return "unconditional" if direction.startswith("->") else pretty(direction)


def _range_plots(results: Results) -> list[Plot]:
    names = list(results["systems"])
    legend = names if len(names) > 1 else []
    rows = [
        Range(
            label=_label(name),
            value=primary["model"]["value"],
            low=primary["model"]["low"],
            high=primary["model"]["high"],
            floor=primary["shuffled"]["value"],
            ceiling=primary["ceiling"],
            series=names.index(system),
        )
        for system, name, primary in ((system, name, scores["primary"]) for system, name, scores in directions(results))
        if primary["model"] and primary["model"]["value"] is not None
    ]
    plots = [Plot(svg=range_plot("Finding F1, macro, over all targets", rows, legend))] if rows else []
    for metric in PLOTTED:
        rows = [
            Range(
                label=_label(name) + (f" ({modality(target).short})" if len(scores["targets"]) > 1 else ""),
                **{key: told["metrics"][metric][key] for key in ("value", "low", "high", "floor", "ceiling")},
                series=names.index(system),
            )
            for system, name, scores in directions(results)
            for target, told in scores["targets"].items()
            if told["metrics"].get(metric, {}).get("value") is not None
        ]
        if rows:
            plots.append(Plot(svg=range_plot(shown(metric).title, rows, legend)))
    return plots


def _comparisons(results: Results) -> list[Section]:
    parts = []
    told = results["comparisons"]
    if told["systems"]:
        primary = [test for test in told["systems"] if test["target"] == ALL]
        rows = [_difference(f"{pretty(test['direction'])}", test) for test in primary]
        pairs = (
            " against ".join(primary[0]["systems"])
            if len({tuple(one["systems"]) for one in primary}) == 1
            else "systems"
        )
        table = comparison_table(told["systems"], "systems")
        parts.append(
            Section(
                title="Systems against each other",
                text="Paired on the studies that both have; differences are first minus second.",
                plots=[Plot(svg=difference_plot(f"Difference of finding F1: {pairs}", rows))] if rows else (),
                tables=[table] if table else (),
            )
        )
    if told["multi_prompt"]:
        primary = [test for test in told["multi_prompt"] if test["target"] == ALL]
        rows = [
            _difference(f"{pretty(test['direction'])} − {pretty(test['against']).split(' →')[0]} alone", test)
            for test in primary
        ]
        table = comparison_table(told["multi_prompt"], "against")
        parts.append(
            Section(
                title="Two prompts beside one",
                text="Each direction with two prompts against the same targets from each of the two alone, paired on the same studies.",
                plots=[Plot(svg=difference_plot("Difference of finding F1: two prompts − one", rows))] if rows else (),
                parts=[Section(title="All metrics", tables=[table], folded=True)] if table else (),
            )
        )
    return parts


def _difference(label: str, test: dict[str, Any]) -> Range:
    difference = test["difference"]
    return Range(label=label, value=difference["value"], low=difference["low"], high=difference["high"])


def sections(results: Results, held: HeldOut, readers: Readers, scored: Scored, generated: Path) -> list[Section]:
    """The parts of the page, in order."""
    parts = [
        Section(
            title="Does the prompt decide what is shown?",
            text=_EXPLAINED,
            alarms=alarms(results),
            tables=[summary_table(results)],
        ),
        Section(
            title="Between floor and ceiling",
            text="Ring: floor, prompts shuffled. Dot and bar: the figure and its interval. Green line: ceiling, real targets.",
            plots=_range_plots(results),
        ),
    ]
    told = "value [95 % interval]; f: floor, prompts shuffled; c: ceiling, real targets (distances: real half against real half)"
    tables = [
        matrix_table(results, "image", ("findings",), f"Images, what they show. {told}"),
        matrix_table(results, "image", ("images", "other"), f"Images, what they look like. {told}"),
        matrix_table(results, "text", ("findings", "reports", "other"), f"Reports. {told}"),
    ]
    parts.append(Section(title="The matrix", tables=[table for table in tables if table is not None]))
    parts += _comparisons(results)
    if (table := coherence_table(results)) is not None:
        parts.append(
            Section(
                title="Coherence of what is generated jointly",
                text="Do the targets of one generation show one patient? Ceiling: real pairs. Floor: a target beside another "
                "generation's. Ranks are among all scored studies: chance gives half of them.",
                tables=[table],
            )
        )
    parts.append(Section(title="Findings one by one", tables=finding_tables(results)))
    if num := results["config"]["pictures"]:
        parts.append(_pictures(results, held, readers, scored, generated, num))
    lists = [
        ("What was odd", flag_table(results)),
        ("Excluded", excluded_table(results)),
        ("Left out", left_out_table(results)),
    ]
    for title, table in lists:
        if table is not None:
            parts.append(Section(title=title, tables=[table], folded=len(table.rows) > 12))
    if notes := results["config"]["notes"]:
        parts.append(
            Section(title="Notes on the protocol", text="\n".join(f"{key}: {text}" for key, text in notes.items()))
        )
    parts.append(
        Section(
            title="How to repeat it",
            text="medcodi evaluate --verify BUNDLE computes every figure again from the kept contents and the data, and says what differs.\n"
            f"What exactly was scored stands in scored.json (SHA-256 {results['scored_sha256']}), every file's hash in bundle.json.",
            parts=[Section(title="Everything the figures depend on", tables=provenance_tables(results), folded=True)],
        )
    )
    return parts


def _pictures(results: Results, held: HeldOut, readers: Readers, scored: Scored, generated: Path, num: int) -> Section:
    parts = []
    for name in dict.fromkeys(name for _, name, _ in directions(results)):
        direction = Direction.parse(name)
        each = {system: told[direction] for system, told in scored.scores.items() if direction in told}
        rows = picture_rows(direction, each, held, readers, scored, generated, num=num, seed=results["config"]["seed"])
        primary = next(iter(each.values())).primary
        value = (primary["model"] or {}).get("value")
        parts.append(Section(title=f"{pretty(name)}  (finding F1 {number(value)})", rows=rows, folded=bool(parts)))
    return Section(title="Pictures", text=RULE, parts=parts)


def write_results_page(
    path: Path, results: Results, held: HeldOut, readers: Readers, scored: Scored, generated: Path
) -> Path:
    """Write the page; returns its path."""
    return write_page(path, _head(results), sections(results, held, readers, scored, generated))
