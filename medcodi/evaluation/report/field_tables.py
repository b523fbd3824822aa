"""Tables of the page about fields and parts: generated records, obedience of films, findings by subgroup, distances by finding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medcodi.evaluation.report.tables import matrix_cell, row_heads, system_cells
from medcodi.evaluation.report.wording import Results, directions, interval, number, pretty, title
from medcodi.evaluation.scoring.groups import group_order
from medcodi.evaluation.scoring.metrics import METRICS, PRIMARY, metric_order
from medcodi.pages.page import Figure, Section, Table

Scored = tuple[str, str, str, dict[str, Any]]  # system, direction, target, its scores


def _targets(results: Results) -> Iterator[Scored]:
    """Every target of every direction of every system."""
    for system, name, scores in directions(results):
        for target, own in scores["targets"].items():
            yield system, name, target, own


# ---- sections -------------------------------------------------------------------------------------------------------
def field_sections(results: Results) -> list[Section]:
    """Generated records, obedience of films, and findings by subgroup, as far as there are any."""
    bounds = (
        "value [95 % interval]; f: floor, other patients' truth; c: ceiling, what the annotator reads from real films"
    )
    records = _field_table(
        results, "records",
        f"Fields of generated records, the mean of all draws against the truth. {bounds} that prompt. Mean errors are in the field's unit, of values on "
        "a logarithmic scale in natural logarithms.",
    )  # fmt: skip
    shown = _field_table(
        results, "obedience", f"What is read from generated films of the record that prompted them. {bounds}."
    )
    tables = {"Records": records, "Do films obey the record?": shown}
    parts = [Section(title=name, tables=[table]) for name, table in tables.items() if table is not None]
    subgroups = _subgroup_section(results)
    return parts if subgroups is None else [*parts, subgroups]


# ---- fields of records -----------------------------------------------------------------------------------------------
def _field_table(results: Results, table: str, caption: str) -> Table | None:
    """Direction, target and field -> the metrics of one table, ``records`` or ``obedience``; None without any."""
    metrics = [name for name, row in METRICS.items() if row.table == table]
    rows, used = [], set()
    for system, name, target, own in _targets(results):
        figures = {key: figure for key, figure in own["metrics"].items() if key.partition("/")[0] in metrics}
        used |= {key.partition("/")[0] for key in figures}
        for field in dict.fromkeys(key.partition("/")[2] for key in figures):
            own_figures = {key.partition("/")[0]: figures[key] for key in figures if key.endswith(f"/{field}")}
            rows.append(((*row_heads(results, system, name, target), field), own_figures))
    if not rows:
        return None
    chosen = [metric for metric in metrics if metric in used]
    columns = ("direction", "target", *system_cells(results, "system"), "field", *map(title, chosen))
    cells = [(*heads, *(_field_cell(metric, figures.get(metric)) for metric in chosen)) for heads, figures in rows]
    return Table(columns=columns, rows=cells, caption=caption, left=len(columns) - len(chosen))


def _field_cell(metric: str, figure: dict[str, Any] | None) -> Figure:
    """A figure between floor and ceiling; of a spread, what it should be."""
    cell = matrix_cell(metric, figure)
    if not figure or figure.get("expected") is None:
        return cell
    should_be = f"should be {number(figure['expected'])}, {figure['draws']} draws"
    return Figure(text=cell.text, value=cell.value, below="\n".join(filter(None, (interval(figure), should_be))))


# ---- subgroups -------------------------------------------------------------------------------------------------------
def _subgroup_section(results: Results) -> Section | None:
    """A table for each metric of findings, the primary one first; None where no studies have groups."""
    present = {metric for *_, own in _targets(results) for metric in own.get("subgroups", ())}
    metrics = [metric for metric in METRICS if metric in present]
    if not metrics:
        return None
    tables = [_subgroup_table(results, metric) for metric in metrics]
    config = results["config"]
    text = (
        f"Groups by {' × '.join(config['subgroup_by'])}, of at least {config['subgroup_studies']} studies; smaller ones are listed below as left out. "
        "Gap: the best group minus the worst, both chosen on all studies, with its interval over patients. The largest of several differences is above 0 "
        "even if nothing differs: by chance is the same gap with groups moved between patients; in real "
        "targets, that of the annotators themselves. Worst and best are coloured where the interval is above what chance gives."
    )
    further = [Section(title="Other metrics", tables=tables[1:], folded=True)] if len(tables) > 1 else []
    return Section(title="Subgroups", text=text, tables=tables[:1], parts=further)


def _subgroup_table(results: Results, metric: str) -> Table:
    scored = [
        (system, name, target, own["subgroups"][metric])
        for system, name, target, own in _targets(results)
        if metric in own.get("subgroups", ())
    ]
    groups = sorted({group for *_, own in scored for group in own["groups"]}, key=group_order)
    rows = []
    for system, name, target, own in scored:
        gap = own["gap"] or {}
        rows.append(
            (
                *row_heads(results, system, name, target),
                own["worst"] or "–",
                Figure(text=number(gap.get("value")), value=gap.get("value"), below=interval(gap), strong=True),
                *(Figure(text=number(gap.get(bound)), value=gap.get(bound)) for bound in ("floor", "ceiling")),
                *(_group_cell(own["groups"].get(group), group, own) for group in groups),
            )
        )
    heads = ("direction", "target", *system_cells(results, "system"), "worst group")
    columns = (*heads, "gap", "by chance", "in real targets", *groups)
    caption = f"{title(metric)} of each group [95 % interval]; n: studies; c: ceiling, real targets."
    return Table(columns=columns, rows=rows, caption=caption, left=len(heads))


def _group_cell(figure: dict[str, Any] | None, group: str, own: dict[str, Any]) -> Figure:
    if figure is None:
        return Figure(text="–")
    best = "" if figure["ceiling"] is None else f" · c {number(figure['ceiling'])}"
    # Coloured only where the gap is clearly wider than by chance.
    gap = own["gap"] or {}
    is_clear = gap.get("low") is not None and gap["low"] > (gap["floor"] or 0.0)
    shade = {own["worst"]: 0.0, own["best"]: 1.0}.get(group) if is_clear else None
    below = "\n".join(filter(None, (interval(figure), f"n {figure['studies']}{best}")))
    return Figure(text=number(figure["value"]), value=figure["value"], below=below, shade=shade)


# ---- distances by finding --------------------------------------------------------------------------------------------
def by_finding_table(results: Results) -> Table | None:
    """Distances among the studies with each finding: a row for each system, direction, target and finding; None if there are none."""
    scored = [
        (system, name, target, label, own)
        for system, name, target, scores in _targets(results)
        for label, own in scores.get("by_finding", {}).items()
    ]
    metrics = sorted({metric for *_, own in scored for metric in own["metrics"]}, key=metric_order)
    if not metrics:
        return None
    rows = [
        (
            *row_heads(results, system, name, target),
            label,
            Figure(text=str(own["studies"]), value=own["studies"]),
            *(matrix_cell(metric, own["metrics"].get(metric)) for metric in metrics),
        )
        for system, name, target, label, own in scored
    ]
    heads = ("direction", "target", *system_cells(results, "system"), "finding")
    caption = (
        "Generated against real images of the studies that truly have the finding; value [95 % interval]; h: generated half against real "
        "other half; c: real half against real half. A dash: too few studies for that metric."
    )
    return Table(columns=(*heads, "studies", *map(title, metrics)), rows=rows, caption=caption, left=len(heads))


# ---- sentences -------------------------------------------------------------------------------------------------------
def verdict_of_fields(name: str, system: dict[str, Any]) -> list[str]:
    """Sentences on what a system's records and films hold of the fields, the ceiling beside it, and its widest gap between groups."""
    lines = []
    targets = [
        (direction, own) for direction, scores in system["directions"].items() for own in scores["targets"].values()
    ]
    for group, said in (("record", "records generated"), ("obedience", "films show the record that prompted them")):
        figures: dict[str, list[dict[str, Any]]] = {}
        for _, own in targets:
            for metric, figure in own["metrics"].items():
                measure, _, field = metric.partition("/")
                if measure in (f"{group}_r", f"{group}_auroc") and figure["value"] is not None:
                    figures.setdefault(f"{field} {'r' if measure.endswith('_r') else 'AUROC'}", []).append(figure)
        # By name those that an annotator reads from real films; the others together.
        by_name = {field: own for field, own in figures.items() if any(figure["ceiling"] is not None for figure in own)}
        others = [figure for field, own in figures.items() if field not in by_name for figure in own]
        parts = [
            f"{field} {_span(own, 'value')} (real films: {_span(own, 'ceiling')})" for field, own in by_name.items()
        ]
        if others:
            num = len(figures) - len(by_name)
            parts.append(f"{num} {'other ' if by_name else ''}fields {_span(others, 'value')} (r or AUROC)")
        if parts:
            lines.append(f"{name}: {said}: {'; '.join(parts)}.")
    gaps = [
        (own["subgroups"][PRIMARY]["gap"], own["subgroups"][PRIMARY]["worst"], direction)
        for direction, own in targets
        if own.get("subgroups", {}).get(PRIMARY, {}).get("gap")
    ]
    if gaps:
        gap, worst, direction = max(gaps, key=lambda entry: entry[0]["value"])
        lines.append(
            f"{name}: between subgroups, finding F1 differs most in {pretty(direction)}: by {number(gap['value'])} {interval(gap)}, "
            f"{number(gap['floor'])} by chance; worst: {worst}."
        )
    return lines


def _span(figures: list[dict[str, Any]], key: str) -> str:
    """``0.81``, or ``0.70 to 0.81``."""
    values = [figure[key] for figure in figures if figure[key] is not None]
    return " to ".join(dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values))))
