"""The page of an evaluation, as a reviewer reads it: verdict, matrix, ranges, comparisons, coherence, pictures, protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi.evaluation.describing import machine
from medcodi.evaluation.held_out import HeldOut
from medcodi.evaluation.pages.catalogue import number, pretty, shown
from medcodi.evaluation.pages.lists import excluded_table, flag_table, left_out_table, provenance_tables
from medcodi.evaluation.pages.pictures import RULE, picture_rows
from medcodi.evaluation.pages.summary import ALL, directions, summary_table
from medcodi.evaluation.pages.tables import coherence_table, comparison_table, finding_tables, matrix_table
from medcodi.evaluation.pages.verdict import alarms, verdict
from medcodi.evaluation.reading import Readers
from medcodi.modality import modality
from medcodi.pages.charts import ForestRow, Range, forest_chart, range_chart
from medcodi.pages.page import Head, Plot, Section, render_page, write_page
from medcodi.study import Direction

if TYPE_CHECKING:
    from medcodi.evaluation.matrix import Scored

Results = dict[str, Any]
PLOTTED = ("side_accuracy", "finding_auroc", "bleu_4", "cider")
_TOLD_APART = "Green and red: told apart by the permutation test, Holm-adjusted p below 0.05; grey: not told apart, whatever the interval."
_EXPLAINED = (
    "Finding F1 is the mean over findings (macro), averaged over the targets of a direction: findings read from what was generated ({readers}) "
    "against the truth of the study that prompted it.\n"
    "Ceiling: the same readers on the real targets of the same studies; no generator should be asked for more. Floor: prompts shuffled, that is the "
    "same generations against other patients' truth. Colours run from the floor (red) to the ceiling (green). "
    "Brackets: 95 % bootstrap interval over patients.\n"
    "Legible in the prompt: the same figure of the readers themselves, shown the real prompts and nothing else. What a film does not show, "
    "no generator can know from it; the ceiling does not say that. Side right: where a finding with a side is both true and read, of each target. "
    "Targets agree: Cohen's κ between the findings of targets generated together, as a share of what real pairs give."
)


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
            (_machine(), "machine"),
            (f"{results['versions']['medcodi']} · {results['versions']['torch']}", "medcodi · torch"),
        ],
    )


def _readers(results: Results) -> str:
    """Who read the findings: ``images: the classifier "demo"; reports: the labeler "rules"``."""
    readers = results["readers"]
    told = {"images: the classifier": readers["images"], "reports: the labeler": readers["reports"]}
    return "; ".join(f"{what} “{one['name']}”" for what, one in told.items() if one)


def _machine() -> str:
    here = machine()
    return here["gpu"] or f"{here['cores']} cores, {here['architecture']}"


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
            legible=(primary.get("prompt_reader") or {}).get("value"),
            series=names.index(system),
        )
        for system, name, primary in ((system, name, scores["primary"]) for system, name, scores in directions(results))
        if primary["model"] and primary["model"]["value"] is not None
    ]
    plots = [Plot(svg=range_chart("Finding F1, macro, over all targets", rows, legend))] if rows else []
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
            plots.append(Plot(svg=range_chart(shown(metric).title, rows, legend)))
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
                text=f"Paired on the studies that both have; differences are first minus second. {_TOLD_APART}",
                plots=[Plot(svg=forest_chart(f"Difference of finding F1: {pairs}", rows, reference=0.0))]
                if rows
                else (),
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
                text="Each direction with two prompts against the same targets from each of the two alone, paired on the same studies. "
                + _TOLD_APART,
                plots=[Plot(svg=forest_chart("Difference of finding F1: two prompts − one", rows, reference=0.0))]
                if rows
                else (),
                parts=[Section(title="All metrics", tables=[table], folded=True)] if table else (),
            )
        )
    return parts


def _difference(label: str, test: dict[str, Any]) -> ForestRow:
    difference = test["difference"]
    return ForestRow(
        label=label,
        value=difference["value"],
        low=difference["low"],
        high=difference["high"],
        tone=test["first_is"],
    )


def sections(results: Results, held: HeldOut, readers: Readers, scored: Scored, generated: Path) -> list[Section]:
    """The parts of the page, in order."""
    parts = [
        Section(
            title="Does the prompt decide what is shown?",
            text=_EXPLAINED.format(readers=_readers(results)),
            alarms=alarms(results),
            tables=[summary_table(results)],
        ),
        Section(
            title="Between floor and ceiling",
            text="Ring: floor, prompts shuffled. Dot and bar: the figure and its interval. Green line: ceiling, real targets. "
            "Diamond: what a reader sees in the prompts.",
            plots=_range_plots(results),
        ),
    ]
    told = "value [95 % interval]; f: floor, prompts shuffled; c: ceiling, real targets"
    sets = (
        "; of distances, precision, recall, density and coverage, c: real images of one half of the patients against those of the other, h: generated "
        "images of the one half against the real ones of the other. Compare h with c: the value is of all studies, and against the same studies' images"
    )
    tables = [
        matrix_table(results, "image", ("findings",), f"Images, what they show. {told}."),
        matrix_table(results, "image", ("images", "other"), f"Images, what they look like. {told}{sets}."),
        matrix_table(
            results,
            "text",
            ("findings", "reports", "other"),
            f"Reports. {told}; overlap of texts has none, and the floor of one shuffle.",
        ),
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
    return write_page(path, render_page(_head(results), sections(results, held, readers, scored, generated)))
