"""Tables of figures: the matrix, findings, comparisons, coherence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medcodi.evaluation.pages.catalogue import METRICS, interval, number, percent, pretty, share, shown, title
from medcodi.evaluation.pages.summary import ALL, VERDICT_SHADE, directions, several
from medcodi.modality import MODALITIES, modality
from medcodi.pages.page import Figure, Table
from medcodi.study import CHEXPERT_LABELS

Results = dict[str, Any]
_WORDS = {"better": "better", "worse": "worse", "alike": "not told apart"}


def matrix_table(results: Results, kind: str, groups: tuple[str, ...], caption: str = "") -> Table | None:
    """Direction and target -> every metric of some groups; colours from floor to ceiling."""
    scored = [
        (system, name, target, scores["targets"][target]["metrics"])
        for system, name, scores in directions(results)
        for target in scores["targets"]
        if MODALITIES[target].kind == kind
    ]
    present = dict.fromkeys(metric for *_, metrics in scored for metric in metrics)
    order = list(METRICS)
    chosen = sorted(
        (metric for metric in present if shown(metric).group in groups),
        key=lambda metric: (order.index(metric.partition("/")[0]), metric),
    )
    if not chosen:
        return None
    rows = [
        (
            pretty(name),
            modality(target).title,
            *((system,) if several(results) else ()),
            *(_matrix_cell(metric, metrics.get(metric)) for metric in chosen),
        )
        for system, name, target, metrics in scored
    ]
    columns = ("direction", "target", *(("system",) if several(results) else ()), *map(title, chosen))
    return Table(columns=columns, rows=rows, caption=caption, left=3 if several(results) else 2)


def _matrix_cell(metric: str, record: dict[str, Any] | None) -> Figure:
    if not record or record.get("value") is None:
        return Figure(text="–")
    marks = (("f", "floor"), ("h", "halves"), ("c", "ceiling"))
    bounds = [f"{mark} {number(record[key])}" for mark, key in marks if record.get(key) is not None]
    of_real = "" if record.get("share_of_ceiling") is None else f"{percent(record['share_of_ceiling'])} of real pairs"
    return Figure(
        text=number(record["value"]),
        value=record["value"],
        below="\n".join(filter(None, (interval(record), " · ".join(bounds), of_real))),
        shade=share(record, shown(metric).better),
    )


def coherence_table(results: Results) -> Table | None:
    """Direction and pair of targets -> how far they show one patient."""
    scored = [
        (system, name, pair, told["metrics"])
        for system, name, scores in directions(results)
        for pair, told in scores["coherence"].items()
    ]
    present = dict.fromkeys(metric for *_, metrics in scored for metric in metrics)
    if not present:
        return None
    rows = [
        (
            pretty(name),
            " and ".join(pair.split("+")),
            *((system,) if several(results) else ()),
            *(_matrix_cell(metric, metrics.get(metric)) for metric in present),
        )
        for system, name, pair, metrics in scored
    ]
    columns = ("direction", "pair", *(("system",) if several(results) else ()), *map(title, present))
    caption = (
        "value [95 % interval]; f: floor, a target beside another patient's generation; c: ceiling, real pairs; below, the share of the "
        "ceiling. Colours run from floor (red) to ceiling (green)."
    )
    return Table(columns=columns, rows=rows, caption=caption, left=3 if several(results) else 2)


def finding_tables(results: Results) -> list[Table]:
    """F1 per finding and side: a table for each target, a row for each finding, a column for each direction."""
    tables = []
    for target in MODALITIES:
        scored = [
            (f"{system}: {pretty(name)}" if several(results) else pretty(name), scores["targets"][target]["findings"])
            for system, name, scores in directions(results)
            if target in scores["targets"]
        ]
        present = dict.fromkeys(label for _, findings in scored for label in findings)
        if not present:
            continue
        labels = sorted(present, key=_finding_order)
        told = {label: [found[label] for _, found in scored if label in found] for label in labels}
        rows = [
            (
                label.replace("/", ", "),
                _span([one["positives"] for one in told[label]], lambda value: f"{value:.0f}"),
                _span([one["ceiling_f1"] for one in told[label]], number),
                *(_finding_cell(found.get(label)) for _, found in scored),
            )
            for label in labels
        ]
        tables.append(
            Table(
                columns=("finding", "positive studies", "ceiling", *(name for name, _ in scored)),
                rows=rows,
                caption=f"{modality(target).title}: F1 [95 % interval], with AUROC below where the reader gives probabilities; c: ceiling of "
                "that direction. Positive studies and ceiling: from the least to the most among the directions, whose studies may differ.",
            )
        )
    return tables


def _span(values: list[float | None], text: Callable[[float], str]) -> Figure:
    """One number, or from the least to the greatest where they differ."""
    known = [value for value in values if value is not None]
    if not known:
        return Figure(text="–")
    return Figure(text=" to ".join(dict.fromkeys((text(min(known)), text(max(known))))), value=min(known))


def _finding_order(label: str) -> tuple[int, str]:
    name, _, side = label.partition("/")
    return CHEXPERT_LABELS.index(name), side


def _finding_cell(found: dict[str, Any] | None) -> Figure:
    if found is None or found.get("f1") is None:
        return Figure(text="–")
    shade = share({"value": found["f1"], "ceiling": found["ceiling_f1"], "floor": found["floor_f1"]})
    area = f"AUROC {number(found['auroc'])}" if found.get("auroc") is not None else ""
    best = f"c {number(found['ceiling_f1'])}" if found["ceiling_f1"] is not None else ""
    below = "\n".join(filter(None, (interval(found), best, area)))
    return Figure(text=number(found["f1"]), value=found["f1"], below=below, shade=shade)


def comparison_table(tests: list[dict[str, Any]], what: str) -> Table | None:
    """Paired tests: first, second, difference, p-value."""
    if not tests:
        return None
    rows = []
    for test in tests:
        versus = f"{pretty(test['against'])}" if "against" in test else " against ".join(test["systems"])
        named = (test["system"],) if "system" in test else ()
        left_out = len(test.get("findings_left_out") or ())
        only = f"on the {test['findings']} findings that both count; {left_out} left out" if left_out else ""
        rows.append(
            (
                pretty(test["direction"]),
                versus,
                *named,
                "all" if test["target"] == ALL else modality(test["target"]).title,
                Figure(text=title(test["metric"]), below=only),
                *(Figure(text=number(test[side]), value=test[side]) for side in ("first", "second")),
                Figure(
                    text=number(test["difference"]["value"]),
                    value=test["difference"]["value"],
                    small=interval(test["difference"]),
                ),
                Figure(text=number(test["p_value"]), value=test["p_value"]),
                Figure(text=number(test.get("p_holm")), value=test.get("p_holm")),
                Figure(text=_WORDS[test["first_is"]], shade=VERDICT_SHADE[test["first_is"]]),
            )
        )
    named = ("system",) if "system" in tests[0] else ()
    columns = (
        "direction",
        what,
        *named,
        "target",
        "metric",
        "first",
        "second",
        "difference",
        "p",
        "p, Holm",
        "first is",
    )
    caption = (
        "First is better or worse: p, adjusted by Holm over all tests of the metric in this table, is below 0.05; where a figure of whole sets has "
        "no p-value, the 95 % interval excludes 0."
    )
    return Table(columns=columns, rows=rows, caption=caption, left=4 + len(named))
