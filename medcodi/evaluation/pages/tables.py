"""Tables of results: the summary, the matrix, findings, comparisons, coherence, what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medcodi.evaluation.pages.catalogue import METRICS, interval, number, pretty, share, shown, title, with_interval
from medcodi.evaluation.pages.page import Figure, Table
from medcodi.modality import MODALITIES, modality
from medcodi.study import CHEXPERT_LABELS

Results = dict[str, Any]
ALL = "all"


def directions(results: Results) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(system, direction, scores), systems within directions."""
    names = dict.fromkeys(name for system in results["systems"].values() for name in system["directions"])
    for name in names:
        for system, told in results["systems"].items():
            if name in told["directions"]:
                yield system, name, told["directions"][name]


def _several(results: Results) -> bool:
    return len(results["systems"]) > 1


def summary_table(results: Results) -> Table:
    """Direction -> primary figure, ceiling, shuffled prompts, difference."""
    rows = []
    for system, name, scores in directions(results):
        primary = scores["primary"]
        verdict = {True: "yes", False: "no", None: "–"}[primary["beats_shuffled"]]
        prompted = bool(scores["prompts"])
        reached = primary["fraction_of_ceiling"] if prompted else None
        whole = {
            **(primary["model"] or {}),
            "ceiling": primary["ceiling"],
            "floor": (primary["shuffled"] or {}).get("value"),
        }
        rows.append(
            (
                pretty(name),
                *((system,) if _several(results) else ()),
                Figure(text=str(scores["num_studies"]), value=scores["num_studies"]),
                Figure(
                    text=number(whole.get("value")),
                    value=whole.get("value"),
                    small=interval(whole),
                    shade=share(whole) if prompted else None,
                ),
                Figure(text=number(primary["ceiling"]), value=primary["ceiling"]),
                Figure(text="–" if reached is None else f"{100 * reached:.0f} %", value=reached, strong=True),
                Figure(text=with_interval(primary["shuffled"]), value=whole["floor"]),
                Figure(text=with_interval(primary["difference"]), value=(primary["difference"] or {}).get("value")),
                verdict,
            )
        )
    columns = ("direction", *(("system",) if _several(results) else ()), "studies", "finding F1, macro", "ceiling")
    columns += ("of ceiling", "prompts shuffled", "difference", "beats shuffled")
    return Table(columns=columns, rows=rows, left=2 if _several(results) else 1)


def plain_rows(table: Table) -> list[tuple[str, ...]]:
    """The table for a terminal."""
    return [tuple(" ".join(filter(None, (cell.text, cell.small))) for cell in row) for row in table.cells()]


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
            *((system,) if _several(results) else ()),
            *(_matrix_cell(metric, metrics.get(metric)) for metric in chosen),
        )
        for system, name, target, metrics in scored
    ]
    columns = ("direction", "target", *(("system",) if _several(results) else ()), *map(title, chosen))
    return Table(columns=columns, rows=rows, caption=caption, left=3 if _several(results) else 2)


def _matrix_cell(metric: str, record: dict[str, Any] | None) -> Figure:
    if not record or record.get("value") is None:
        return Figure(text="–")
    marks = (("f", "floor"), ("c", "ceiling"))
    bounds = [f"{mark} {number(record[key])}" for mark, key in marks if record.get(key) is not None]
    return Figure(
        text=number(record["value"]),
        value=record["value"],
        below="\n".join(filter(None, (interval(record), " · ".join(bounds)))),
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
            *((system,) if _several(results) else ()),
            *(_matrix_cell(metric, metrics.get(metric)) for metric in present),
        )
        for system, name, pair, metrics in scored
    ]
    columns = ("direction", "pair", *(("system",) if _several(results) else ()), *map(title, present))
    return Table(columns=columns, rows=rows, left=3 if _several(results) else 2)


def finding_tables(results: Results) -> list[Table]:
    """F1 per finding and side: a table for each target, a row for each finding, a column for each direction."""
    tables = []
    for target in MODALITIES:
        scored = [
            (f"{system}: {pretty(name)}" if _several(results) else pretty(name), scores["targets"][target]["findings"])
            for system, name, scores in directions(results)
            if target in scores["targets"]
        ]
        present = dict.fromkeys(label for _, findings in scored for label in findings)
        if not present:
            continue
        labels = sorted(present, key=_finding_order)
        first = {label: next(found[label] for _, found in scored if label in found) for label in labels}
        rows = [
            (
                label.replace("/", ", "),
                Figure(text=f"{first[label]['positives']:.0f}", value=first[label]["positives"]),
                Figure(text=number(first[label]["ceiling_f1"]), value=first[label]["ceiling_f1"]),
                *(_finding_cell(found.get(label)) for _, found in scored),
            )
            for label in labels
        ]
        tables.append(
            Table(
                columns=("finding", "positive studies", "ceiling", *(name for name, _ in scored)),
                rows=rows,
                caption=f"{modality(target).title}: F1, with AUROC below where the reader gives probabilities",
            )
        )
    return tables


def _finding_order(label: str) -> tuple[int, str]:
    name, _, side = label.partition("/")
    return CHEXPERT_LABELS.index(name), side


def _finding_cell(found: dict[str, Any] | None) -> Figure:
    if found is None or found.get("f1") is None:
        return Figure(text="–")
    shade = share({"value": found["f1"], "ceiling": found["ceiling_f1"], "floor": found["floor_f1"]})
    area = f"AUROC {number(found['auroc'])}" if found.get("auroc") is not None else ""
    below = "\n".join(filter(None, (interval(found), area)))
    return Figure(text=number(found["f1"]), value=found["f1"], below=below, shade=shade)


def comparison_table(tests: list[dict[str, Any]], what: str) -> Table | None:
    """Paired tests: first, second, difference, p-value."""
    if not tests:
        return None
    rows = []
    for test in tests:
        versus = f"{pretty(test['against'])}" if "against" in test else " against ".join(test["systems"])
        several = (test["system"],) if "system" in test else ()
        above = test["difference"]["low"] is not None and test["difference"]["low"] > 0
        under = test["difference"]["high"] is not None and test["difference"]["high"] < 0
        down = shown(test["metric"]).better == "down"
        verdict = "better" if (under if down else above) else "worse" if (above if down else under) else "alike"
        rows.append(
            (
                pretty(test["direction"]),
                versus,
                *several,
                "all" if test["target"] == ALL else modality(test["target"]).title,
                title(test["metric"]),
                *(Figure(text=number(test[side]), value=test[side]) for side in ("first", "second")),
                Figure(
                    text=number(test["difference"]["value"]),
                    value=test["difference"]["value"],
                    small=interval(test["difference"]),
                ),
                Figure(text=number(test["p_value"]), value=test["p_value"]),
                Figure(text=number(test.get("p_holm")), value=test.get("p_holm")),
                Figure(text=verdict, shade={"better": 1.0, "alike": None, "worse": 0.0}[verdict]),
            )
        )
    several = ("system",) if "system" in tests[0] else ()
    columns = (
        "direction",
        what,
        *several,
        "target",
        "metric",
        "first",
        "second",
        "difference",
        "p",
        "p, Holm",
        "first is",
    )
    return Table(columns=columns, rows=rows, left=4 + len(several))


def left_out_table(results: Results) -> Table | None:
    """Metrics that are not there, and why."""
    rows = [
        (
            pretty(name),
            *((system,) if _several(results) else ()),
            part,
            title(entry["metric"].partition(":")[0])
            + entry["metric"].partition(":")[1]
            + entry["metric"].partition(":")[2],
            str(entry.get("needed", "–")),
            str(entry.get("available", "–")),
            entry["reason"],
        )
        for system, name, scores in directions(results)
        for part, told in {**scores["targets"], **scores["coherence"]}.items()
        for entry in told["left_out"]
    ]
    columns = ("direction", *(("system",) if _several(results) else ()), "target", "metric", "needs", "has", "why")
    return Table(columns=columns, rows=rows, left=6) if rows else None


def flag_table(results: Results) -> Table | None:
    """What is odd about generated contents."""
    rows = [
        (
            pretty(name),
            *((system,) if _several(results) else ()),
            modality(target).title,
            kind,
            Figure(text=f"{told['count']} of {scores['num_studies']}", value=told["count"]),
            ", ".join(told["studies"]) + (" …" if told["count"] > len(told["studies"]) else ""),
        )
        for system, name, scores in directions(results)
        for target, one in scores["targets"].items()
        for kind, told in one["flags"].items()
    ]
    columns = (
        "direction",
        *(("system",) if _several(results) else ()),
        "target",
        "contents are",
        "how many",
        "studies",
    )
    return Table(columns=columns, rows=rows, left=3) if rows else None


def excluded_table(results: Results) -> Table | None:
    """What was not scored, and why."""
    rows = [(one["system"], one["study_id"], one["what"], one["reason"]) for one in results["excluded"]]
    return Table(columns=("system", "study", "what", "why"), rows=rows, left=4) if rows else None


def provenance_tables(results: Results) -> list[Table]:
    """What the figures depend on."""

    def flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, one in value.items():
                yield from flat(one, f"{name}.{key}" if name else str(key))
        else:
            shown_value = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield name, shown_value

    readers = {name: told for name, told in results["readers"].items() if told}
    images = {key: value for key, value in (readers.get("images") or {}).items() if key != "measured"}
    systems = {
        name: {key: value for key, value in told.items() if key != "directions"}
        for name, told in results["systems"].items()
    }
    parts = {
        "data": results["data"], "systems": systems, "readers": {**readers, "images": images},
        "preprocessing": results["preprocessing"], "scoring": results["scoring"], "config": results["config"],
        "versions": results["versions"],
    }  # fmt: skip
    return [Table(columns=(name, "value"), rows=list(flat(part, "")), left=2) for name, part in parts.items() if part]
