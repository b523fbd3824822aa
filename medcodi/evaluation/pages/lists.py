"""Lists beside the figures: what was left out, odd or excluded, and everything that the figures depend on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medcodi.evaluation.pages.catalogue import pretty, title
from medcodi.evaluation.pages.summary import directions, several
from medcodi.modality import modality
from medcodi.pages.page import Figure, Table

Results = dict[str, Any]


def left_out_table(results: Results) -> Table | None:
    """Metrics that are not there, and why."""
    rows = [
        (
            pretty(name),
            *((system,) if several(results) else ()),
            part,
            title(entry["metric"].partition(":")[0])
            + entry["metric"].partition(":")[1]
            + entry["metric"].partition(":")[2],
            _count(entry.get("needed")),
            _count(entry.get("available")),
            entry["reason"],
        )
        for system, name, scores in directions(results)
        for part, told in {**scores["targets"], **scores["coherence"]}.items()
        for entry in told["left_out"]
    ] + [
        (
            f"{pretty(entry['direction'])}, against {pretty(entry['against']) if 'against' in entry else entry['systems'][1]}",
            *((entry["system"] if "system" in entry else entry["systems"][0],) if several(results) else ()),
            entry["target"],
            f"paired test: {title(entry['metric'])}",
            _count(entry.get("needed")),
            _count(entry.get("available")),
            entry["reason"],
        )
        for entry in results["comparisons"]["left_out"]
    ]
    columns = ("direction", *(("system",) if several(results) else ()), "target", "metric", "needs", "has", "why")
    return Table(columns=columns, rows=rows, left=6) if rows else None


def _count(number: int | None) -> Figure:
    """Of studies or resamples; it sorts as a number."""
    return Figure(text="–" if number is None else str(number), value=number)


def flag_table(results: Results) -> Table | None:
    """What is odd about generated contents."""
    rows = [
        (
            pretty(name),
            *((system,) if several(results) else ()),
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
        *(("system",) if several(results) else ()),
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
