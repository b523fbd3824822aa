"""Tables of the page: the matrix, findings, comparisons, coherence, and lists of what was left out, odd or excluded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from medcodi.evaluation.report.wording import (
    VERDICT_SHADE,
    Results,
    directions,
    interval,
    number,
    order_of,
    percent,
    pretty,
    several,
    share,
    title,
)
from medcodi.evaluation.scoring.metrics import ALL_TARGETS, metric_order, metric_row
from medcodi.modality import MODALITIES, modality
from medcodi.pages.page import Figure, Table
from medcodi.study import CHEXPERT_LABELS

_WORDS = {"better": "better", "worse": "worse", "alike": "not shown to differ"}


def system_cells(results: Results, name: str) -> tuple[str, ...]:
    """A cell with the system's name, or the head ``system``, if there are several systems."""
    return (name,) if several(results) else ()


def row_heads(results: Results, system: str, direction: str, target: str) -> tuple[str, ...]:
    """The first cells of a row about a target: direction, target, and the system where there are several."""
    return pretty(direction), modality(target).title, *system_cells(results, system)


# ---- figures ---------------------------------------------------------------------------------------------------------
def matrix_table(results: Results, kind: str, tables: tuple[str, ...], caption: str = "") -> Table | None:
    """Direction and target -> every metric of some tables; coloured from floor to ceiling."""
    scored = [
        (system, name, target, scores["targets"][target]["metrics"])
        for system, name, scores in directions(results)
        for target in scores["targets"]
        if MODALITIES[target].kind == kind
    ]
    present = {metric for *_, metrics in scored for metric in metrics if metric_row(metric).table in tables}
    chosen = sorted(present, key=metric_order)
    if not chosen:
        return None
    rows = [
        (*row_heads(results, system, name, target), *(matrix_cell(metric, metrics.get(metric)) for metric in chosen))
        for system, name, target, metrics in scored
    ]
    heads = ("direction", "target", *system_cells(results, "system"))
    return Table(columns=(*heads, *map(title, chosen)), rows=rows, caption=caption, left=len(heads))


def matrix_cell(metric: str, figure: dict[str, Any] | None) -> Figure:
    """A figure with its interval, floor and ceiling, coloured between them."""
    if not figure or figure.get("value") is None:
        return Figure(text="–")
    marks = (("f", "floor"), ("h", "halves"), ("c", "ceiling"))
    bounds = [f"{mark} {number(figure[key])}" for mark, key in marks if figure.get(key) is not None]
    of_real = "" if figure.get("share_of_ceiling") is None else f"{percent(figure['share_of_ceiling'])} of real pairs"
    return Figure(
        text=number(figure["value"]),
        value=figure["value"],
        below="\n".join(filter(None, (interval(figure), " · ".join(bounds), of_real))),
        shade=share(figure, metric_row(metric).better),
    )


def coherence_table(results: Results) -> Table | None:
    """Direction and pair of targets -> how far they show one patient."""
    scored = [
        (system, name, pair, order_of(results, system, name), own["metrics"])
        for system, name, scores in directions(results)
        for pair, own in scores["coherence"].items()
    ]
    present = dict.fromkeys(metric for *_, metrics in scored for metric in metrics)
    if not present:
        return None
    rows = [
        (
            pretty(name),
            Figure(text=" and ".join(pair.split("+")), below=order),
            *system_cells(results, system),
            *(matrix_cell(metric, metrics.get(metric)) for metric in present),
        )
        for system, name, pair, order, metrics in scored
    ]
    heads = ("direction", "pair", *system_cells(results, "system"))
    caption = (
        "value [95 % interval]; f: floor, a target beside another patient's generation; c: ceiling, real pairs; below, the share of the "
        "ceiling. Colours run from floor (red) to ceiling (green)."
    )
    return Table(columns=(*heads, *map(title, present)), rows=rows, caption=caption, left=len(heads))


def finding_tables(results: Results) -> list[Table]:
    """F1 per finding and side: a table for each target, a row for each finding, a column for each direction."""
    tables = []
    for target in MODALITIES:
        scored = [
            (": ".join((*system_cells(results, system), pretty(name))), scores["targets"][target]["findings"])
            for system, name, scores in directions(results)
            if target in scores["targets"]
        ]
        labels = sorted({label for _, findings in scored for label in findings}, key=_finding_order)
        if not labels:
            continue
        rows = []
        for label in labels:
            figures = [findings.get(label) for _, findings in scored]
            known = [figure for figure in figures if figure is not None]
            rows.append(
                (
                    label.replace("/", ", "),
                    _span([figure["positives"] for figure in known], lambda value: f"{value:.0f}"),
                    _span([figure["ceiling_f1"] for figure in known], number),
                    *map(_finding_cell, figures),
                )
            )
        caption = (
            f"{modality(target).title}: F1 [95 % interval], with AUROC below where the annotator gives probabilities; c: ceiling of "
            "that direction. Positive studies and ceiling: from the least to the most among the directions, whose studies may differ."
        )
        columns = ("finding", "positive studies", "ceiling", *(name for name, _ in scored))
        tables.append(Table(columns=columns, rows=rows, caption=caption))
    return tables


def _span(values: list[float | None], text: Callable[[float], str]) -> Figure:
    """One number, or from the least to the greatest if they differ."""
    known = [value for value in values if value is not None]
    if not known:
        return Figure(text="–")
    return Figure(text=" to ".join(dict.fromkeys((text(min(known)), text(max(known))))), value=min(known))


def _finding_order(label: str) -> tuple[int, str]:
    name, _, side = label.partition("/")
    return CHEXPERT_LABELS.index(name), side


def _finding_cell(figure: dict[str, Any] | None) -> Figure:
    if figure is None or figure.get("f1") is None:
        return Figure(text="–")
    shade = share({"value": figure["f1"], "ceiling": figure["ceiling_f1"], "floor": figure["floor_f1"]})
    area = f"AUROC {number(figure['auroc'])}" if figure.get("auroc") is not None else ""
    best = f"c {number(figure['ceiling_f1'])}" if figure["ceiling_f1"] is not None else ""
    below = "\n".join(filter(None, (interval(figure), best, area)))
    return Figure(text=number(figure["f1"]), value=figure["f1"], below=below, shade=shade)


def comparison_table(tests: Sequence[dict[str, Any]], second: str) -> Table | None:
    """Paired tests: first, second, difference, p-value.

    Args:
        tests: Of one table of the results.
        second: Head of the column that names what the direction is compared with.
    """
    if not tests:
        return None
    rows = []
    for test in tests:
        left_out = len(test.get("findings_left_out") or ())
        only = f"on the {test['findings']} findings that both count; {left_out} left out" if left_out else ""
        difference = test["difference"]
        rows.append(
            (
                pretty(test["direction"]),
                pretty(test["against"]) if "against" in test else " against ".join(test["systems"]),
                *((test["system"],) if "system" in test else ()),
                "all" if test["target"] == ALL_TARGETS else modality(test["target"]).title,
                Figure(text=title(test["metric"]), below=only),
                *(Figure(text=number(test[side]), value=test[side]) for side in ("first", "second")),
                Figure(text=number(difference["value"]), value=difference["value"], small=interval(difference)),
                Figure(text=number(test["p_value"]), value=test["p_value"]),
                Figure(text=number(test.get("p_holm")), value=test.get("p_holm")),
                Figure(text=_WORDS[test["first_is"]], shade=VERDICT_SHADE[test["first_is"]]),
            )
        )
    heads = ("direction", second, *(("system",) if "system" in tests[0] else ()), "target", "metric")
    columns = (*heads, "first", "second", "difference", "p", "p, Holm", "first is")
    caption = (
        "First is better or worse: p, adjusted by Holm over all tests of the metric in this table, is below 0.05; where a figure of whole sets has "
        "no p-value, the 95 % interval excludes 0."
    )
    return Table(columns=columns, rows=rows, caption=caption, left=len(heads))


# ---- lists -----------------------------------------------------------------------------------------------------------
def left_out_table(results: Results) -> Table | None:
    """Directions and metrics that are missing, and why."""
    rows = [
        (pretty(entry["direction"]), *system_cells(results, entry["system"]), "all", "every figure", *_numbers(entry))
        for entry in results.get("directions_left_out", ())
    ]
    for system, name, scores in directions(results):
        for part, own in {**scores["targets"], **scores["coherence"]}.items():
            for entry in own["left_out"]:
                metric, colon, rest = entry["metric"].partition(":")
                rows.append(
                    (pretty(name), *system_cells(results, system), part, title(metric) + colon + rest, *_numbers(entry))
                )
    for entry in results["comparisons"]["left_out"]:
        against = pretty(entry["against"]) if "against" in entry else entry["systems"][1]
        system = entry["system"] if "system" in entry else entry["systems"][0]
        test = f"paired test: {title(entry['metric'])}"
        direction = f"{pretty(entry['direction'])}, against {against}"
        rows.append((direction, *system_cells(results, system), entry["target"], test, *_numbers(entry)))
    columns = ("direction", *system_cells(results, "system"), "target", "metric", "needs", "has", "why")
    return Table(columns=columns, rows=rows, left=6) if rows else None


def _numbers(entry: dict[str, Any]) -> tuple[Figure, Figure, str]:
    """Needed and available studies or resamples, and the reason."""
    needed, available = (
        Figure(text="–" if entry.get(key) is None else str(entry[key]), value=entry.get(key))
        for key in ("needed", "available")
    )
    return needed, available, entry["reason"]


def flag_table(results: Results) -> Table | None:
    """Oddities of generated contents."""
    rows = [
        (
            pretty(name),
            *system_cells(results, system),
            modality(target).title,
            kind,
            Figure(text=f"{flag['count']} of {scores['num_studies']}", value=flag["count"]),
            ", ".join(flag["studies"]) + (" …" if flag["count"] > len(flag["studies"]) else ""),
        )
        for system, name, scores in directions(results)
        for target, own in scores["targets"].items()
        for kind, flag in own["flags"].items()
    ]
    columns = ("direction", *system_cells(results, "system"), "target", "contents are", "how many", "studies")
    return Table(columns=columns, rows=rows, left=3) if rows else None


def excluded_table(results: Results) -> Table | None:
    """Everything that was not scored, and why."""
    rows = [(entry["system"], entry["study_id"], entry["what"], entry["reason"]) for entry in results["excluded"]]
    return Table(columns=("system", "study", "what", "why"), rows=rows, left=4) if rows else None


def provenance_tables(results: Results) -> list[Table]:
    """Everything that the figures depend on."""

    def flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flat(inner, f"{name}.{key}" if name else str(key))
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    readers = {name: description for name, description in results["readers"].items() if description}
    measured = ("measured", "measured_record")
    readers["images"] = {key: value for key, value in (readers.get("images") or {}).items() if key not in measured}
    systems = {
        name: {key: value for key, value in system.items() if key != "directions"}
        for name, system in results["systems"].items()
    }
    parts = {
        "data": results["data"], "systems": systems, "readers": readers, "preprocessing": results["preprocessing"],
        "scoring": results["scoring"], "config": results["config"], "versions": results["versions"],
    }  # fmt: skip
    return [Table(columns=(name, "value"), rows=list(flat(part, "")), left=2) for name, part in parts.items() if part]
