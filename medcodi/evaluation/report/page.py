"""The page of an evaluation: summary, ranges, matrix, comparisons, coherence, findings, pictures, lists, notes, provenance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medcodi.evaluation.provenance import machine
from medcodi.evaluation.report.alarms import alarms
from medcodi.evaluation.report.field_tables import by_finding_table, field_sections
from medcodi.evaluation.report.summary import summary_table, verdict
from medcodi.evaluation.report.tables import (
    coherence_table,
    comparison_table,
    excluded_table,
    finding_tables,
    flag_table,
    left_out_table,
    matrix_table,
    provenance_tables,
)
from medcodi.evaluation.report.wording import Results, directions, number, pretty
from medcodi.evaluation.scoring.metrics import ALL_TARGETS, metric_row
from medcodi.evaluation.studies import Value
from medcodi.modality import modality
from medcodi.pages.bars import Range, range_chart
from medcodi.pages.charts import ForestRow, forest_chart
from medcodi.pages.page import Cell, Head, PictureRow, Plot, Section, render_page, write_page
from medcodi.study import Direction, content_text

PLOTTED = ("side_accuracy", "finding_auroc", "bleu_4", "cider")
Picture = dict[str, Any]  # one study of results["pictures"]
RealContent = Callable[[str, Picture], Value]  # modality, study -> its real content
# System, direction, study -> target -> content.
GeneratedContents = Callable[[str, Direction, Picture], dict[str, Value]]
_COLOURS = (
    "Green and red: different by the permutation test, Holm-adjusted p below 0.05, or, where there is no p-value, by an interval that "
    "excludes 0; grey: not shown to differ."
)
_EXPLAINED = (
    "Finding F1 is the mean over findings (macro), averaged over the targets of a direction: findings annotated in what was generated ({readers}) "
    "against the truth of the study that prompted it.\n"
    "Ceiling: the same annotators on the real targets of the same studies; no generator should be asked for more. Floor: prompts shuffled, that is the "
    "same generations against other patients' truth. Colours run from the floor (red) to the ceiling (green). "
    "Brackets: 95 % bootstrap interval over patients.\n"
    "Legible in the prompt: the same figure of the annotators themselves, given the real prompts and nothing else. What a film does not show, "
    "no generator can know from it; the ceiling does not say that. Side right: if a finding with a side is both true and annotated, of each target. "
    "Targets agree: Cohen's κ between the findings of targets generated together, as a share of what real pairs give."
)
_PICTURES = (
    "Random studies: drawn by a generator keyed with the seed and the direction, before anything was looked at. Worst studies: the most "
    "findings wrong (missed or invented, over all targets; of the first system), the same draw deciding between equals. "
    "Blue: prompt. Orange: generated. Green: truth. Below each: the findings that classifier or labeler found in it, compared with those "
    "that the study truly has; without an annotator's errors, a real target has all of them right. Pictures are shown 256 pixels wide, whatever their own size."
)


def write_results_page(path: Path, results: Results, real: RealContent, generated: GeneratedContents) -> Path:
    """Write the page; returns its path.

    Args:
        path: The HTML file.
        results: The content of ``results.json``; those of earlier schemas have no pictures.
        real: Looks up the real contents of the studies that are shown.
        generated: Looks up the generated ones.
    """
    return write_page(path, render_page(_head(results), sections(results, real, generated)))


def sections(results: Results, real: RealContent, generated: GeneratedContents) -> list[Section]:
    """The parts of the page, in order; arguments as of :func:`write_results_page`."""
    matrix = _matrix_section(results)
    parts = [_prompt_section(results), _range_section(results), *([matrix] if matrix.tables else [])]
    parts += _comparisons(results)
    if (table := coherence_table(results)) is not None:
        text = (
            "Do the targets of one generation show one patient? Ceiling: real pairs. Floor: a target beside another "
            "generation's. Ranks are among all scored studies: chance gives half of them."
        )
        parts.append(Section(title="Coherence of what is generated jointly", text=text, tables=[table]))
    parts += field_sections(results)
    if tables := finding_tables(results):
        parts.append(Section(title="Findings one by one", tables=tables))
    if (table := by_finding_table(results)) is not None:
        parts.append(Section(title="Distances by finding", tables=[table], folded=True))
    if results.get("pictures"):
        parts.append(_pictures(results, real, generated))
    # Lists, folded if they are long.
    lists = {
        "What was odd": flag_table(results),
        "Excluded": excluded_table(results),
        "Left out": left_out_table(results),
    }
    for title, table in lists.items():
        if table is not None:
            parts.append(Section(title=title, tables=[table], folded=len(table.rows) > 12))
    if notes := results["config"]["notes"]:
        text = "\n".join(f"{key}: {note}" for key, note in notes.items())
        parts.append(Section(title="Notes on the protocol", text=text))
    parts.append(_provenance_section(results))
    return parts


# ---- head and text ---------------------------------------------------------------------------------------------------
def _head(results: Results) -> Head:
    data, systems, here = results["data"], results["systems"], machine()
    num_directions = len({name for system in systems.values() for name in system["directions"]})
    models = {name: system.get("model") or "files" for name, system in systems.items()}
    named = ", ".join(name if models[name] in (name, "files") else f"{name} ({models[name]})" for name in systems)
    return Head(
        title=f"Evaluation of {named}",
        lead=f"{data['num_studies']} held-out studies of {data['num_patients']} patients from {data['name']}, "
        f"at {data['image_size']} pixels; truth from {data['truth']}.",
        verdict=verdict(results),
        facts=[
            (f"{data['num_studies']:,}", "studies"),
            (f"{data['num_patients']:,}", "patients"),
            (str(num_directions), "directions"),
            (str(len(systems)), "system" if len(systems) == 1 else "systems"),
            (", ".join(results["readers"]["extractors"]) or "none", "feature extractors"),
            (str(results["config"]["seed"]), "seed"),
            (here["gpu"] or f"{here['cores']} cores, {here['architecture']}", "page made on"),
            (f"{results['versions']['medcodi']} · {results['versions']['torch']}", "medcodi · torch"),
        ],
    )


def _prompt_section(results: Results) -> Section:
    # Who annotated: images: the classifier “demo”; reports: the labeler “rules”.
    annotators = {
        "images: the classifier": results["readers"]["images"],
        "reports: the labeler": results["readers"]["reports"],
    }
    named = "; ".join(f"{kind} “{annotator['name']}”" for kind, annotator in annotators.items() if annotator)
    return Section(
        title="Does the prompt decide what is shown?",
        text=_EXPLAINED.format(readers=named),
        alarms=alarms(results),
        tables=[summary_table(results)],
    )


def _provenance_section(results: Results) -> Section:
    return Section(
        title="How to repeat it",
        text="medcodi evaluate --verify BUNDLE annotates the stored contents again, computes every figure again, and lists what differs; "
        "--rescore computes the figures from the stored annotations.\n"
        f"Exactly what was scored is in scored.json (SHA-256 {results['scored_sha256']}), every file's hash in bundle.json.",
        parts=[Section(title="Everything the figures depend on", tables=provenance_tables(results), folded=True)],
    )


# ---- figures ---------------------------------------------------------------------------------------------------------
def _range_section(results: Results) -> Section:
    names = list(results["systems"])
    legend = names if len(names) > 1 else []
    # The primary figure.
    rows = [
        Range(
            label=_label(name),
            **{key: primary["model"][key] for key in ("value", "low", "high")},
            floor=primary["shuffled"]["value"],
            ceiling=primary["ceiling"],
            legible=(primary.get("prompt_reader") or {}).get("value"),
            series=names.index(system),
        )
        for system, name, scores in directions(results)
        if (primary := scores["primary"])["model"] and primary["model"]["value"] is not None
    ]
    plots = [Plot(svg=range_chart("Finding F1, macro, over all targets", rows, legend))] if rows else []
    # Other metrics with a ceiling, target by target.
    for metric in PLOTTED:
        rows = [
            Range(
                label=_label(name) + (f" ({modality(target).short})" if len(scores["targets"]) > 1 else ""),
                **{key: own["metrics"][metric][key] for key in ("value", "low", "high", "floor", "ceiling")},
                series=names.index(system),
            )
            for system, name, scores in directions(results)
            for target, own in scores["targets"].items()
            if own["metrics"].get(metric, {}).get("value") is not None
        ]
        if rows:
            plots.append(Plot(svg=range_chart(metric_row(metric).title, rows, legend)))
    text = (
        "Ring: floor, prompts shuffled. Dot and bar: the figure and its interval. Green line: ceiling, real targets. "
        "Diamond: what annotators see in the prompts."
    )
    return Section(title="Between floor and ceiling", text=text, plots=plots)


def _label(direction: str) -> str:
    """A direction in a plot, where there is little room."""
    return "unconditional" if direction.startswith("->") else pretty(direction)


def _matrix_section(results: Results) -> Section:
    bounds = "value [95 % interval]; f: floor, prompts shuffled; c: ceiling, real targets"
    sets = (
        "; of distances, precision, recall, density and coverage, c: real images of one half of the patients against those of the other, h: generated "
        "images of the one half against the real ones of the other. Compare h with c: the value is of all studies, and against the same studies' images"
    )
    texts = "; overlap of texts has none, and the floor of one shuffle"
    tables = [
        matrix_table(results, "image", ("findings",), f"Images, what they show. {bounds}."),
        matrix_table(results, "image", ("images", "other"), f"Images, what they look like. {bounds}{sets}."),
        matrix_table(results, "text", ("findings", "reports", "other"), f"Reports. {bounds}{texts}."),
    ]
    return Section(title="The matrix", tables=[table for table in tables if table is not None])


def _comparisons(results: Results) -> list[Section]:
    comparisons, parts = results["comparisons"], []
    if tests := comparisons["systems"]:
        primary = [test for test in tests if test["target"] == ALL_TARGETS]
        pairs = {tuple(test["systems"]) for test in primary}
        named = " against ".join(primary[0]["systems"]) if len(pairs) == 1 else "systems"
        rows = [_difference(pretty(test["direction"]), test) for test in primary]
        table = comparison_table(tests, "systems")
        parts.append(
            Section(
                title="Systems against each other",
                text=f"Paired on the studies that both have; differences are first minus second. {_COLOURS}",
                plots=_difference_plots(f"Difference of finding F1: {named}", rows),
                tables=[table] if table else (),
            )
        )
    if tests := comparisons["multi_prompt"]:
        rows = [
            _difference(f"{pretty(test['direction'])} − {pretty(test['against']).split(' →')[0]} alone", test)
            for test in tests
            if test["target"] == ALL_TARGETS
        ]
        table = comparison_table(tests, "against")
        parts.append(
            Section(
                title="Two prompts beside one",
                text="Each direction with two prompts against the same targets from each of the two alone, paired on the same studies. "
                + _COLOURS,
                plots=_difference_plots("Difference of finding F1: two prompts − one", rows),
                parts=[Section(title="All metrics", tables=[table], folded=True)] if table else (),
            )
        )
    return parts


def _difference(label: str, test: dict[str, Any]) -> ForestRow:
    return ForestRow.of(label, test["difference"], test["first_is"])


def _difference_plots(title: str, rows: list[ForestRow]) -> list[Plot]:
    return [Plot(svg=forest_chart(title, rows, reference=0.0))] if rows else []


# ---- pictures --------------------------------------------------------------------------------------------------------
def _pictures(results: Results, real: RealContent, generated: GeneratedContents) -> Section:
    """The shown studies, direction by direction; all but the first direction are folded."""
    parts = []
    for name, pictures in results["pictures"].items():
        first = next(scores for _, direction, scores in directions(results) if direction == name)
        value = (first["primary"]["model"] or {}).get("value")
        rows = [_picture_row(Direction.parse(name), picture, real, generated) for picture in pictures]
        parts.append(Section(title=f"{pretty(name)}  (finding F1 {number(value)})", rows=rows, folded=bool(parts)))
    return Section(title="Pictures", text=_PICTURES, parts=parts)


def _picture_row(direction: Direction, picture: Picture, real: RealContent, generated: GeneratedContents) -> PictureRow:
    """One study: prompts, then each target as the systems generated it and as it truly is."""

    def cell(name: str, role: str, value: Value, note: str, label: str = "") -> Cell:
        shown = content_text(value[0]) or "" if isinstance(value, tuple) else value  # of a record, its first draw
        return Cell(caption=modality(name).title, role=role, value=shown, note=note, label=label)

    systems = picture["generated"]
    contents = {system: generated(system, direction, picture) for system in systems}
    cells = [cell(name, "prompt", real(name, picture), picture["real"].get(name, "")) for name in direction.prompts]
    for target in direction.targets:
        for system, notes in systems.items():
            label = system if len(systems) > 1 else ""
            cells.append(cell(target, "generated", contents[system][target], notes[target], label))
        cells.append(cell(target, "truth", real(target, picture), picture["real"].get(target, "")))
    note = f"study {picture['study_id']}; truth: {picture['truth'] or 'nothing known'}"
    return PictureRow(title=picture["title"], cells=cells, note=note)
