"""The analysis on disk: ``report.html`` with its figures inside, ``results.json``, CSV tables, a methods paragraph, iMRMC files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcodi.pages.charts import ForestRow, forest_chart, rating_chart, roc_chart, trial_chart
from medcodi.pages.page import render_template
from medcodi.turing.analysis.imrmc import imrmc_text
from medcodi.turing.analysis.wording import methods, verdicts
from medcodi.turing.answers.table import Answers
from medcodi.turing.bundle.files import new_folder
from medcodi.turing.statistics import NEW_READERS, THESE_READERS

TEMPLATES = Path(__file__).parent / "templates"


def write_report(results: dict[str, Any], answers: Answers, out: str | Path) -> Path:
    """Write everything into a new or empty folder, all or nothing.

    Returns:
        The page ``report.html``.

    Raises:
        DataError: If the folder holds something.
    """
    out = Path(out)
    texts = {
        "report.html": render_report(results),
        "results.json": json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "methods.txt": "\n\n".join(methods(results)) + "\n",
    }
    for name, records in tables(results).items():
        texts[f"tables/{name}.csv"] = _csv(records)
    for task, kind in answers.tasks.items():
        if task in results["tasks"] and kind.answer != "findings" and len(kind.sides) == 1:
            own = answers.of(task)
            if {"real", "generated"} <= set(own.arm):
                texts[f"imrmc/{task}.imrmc"] = imrmc_text(own)
    with new_folder(out) as staging:
        for name, text in texts.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return out / "report.html"


def tables(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The CSV tables: name -> rows."""
    equivalence = [
        {key: value for key, value in row.items() if key != "interval"}
        | {key: row["interval"][key] for key in ("value", "low", "high", "se", "df", "level")}
        for row in results["equivalences"]
    ]
    ratings = [
        {"task": task, "arm": arm, "reader": reader, "rating": k + 1, "count": count}
        for task, facts in results["tasks"].items()
        for arm, readers in facts.get("distributions", {}).items()
        for reader, counts in readers.items()
        for k, count in enumerate(counts)
    ]
    points = [
        {"task": task, "contrast": contrast, "reader": reader, "false_positive_rate": x, "true_positive_rate": y}
        for task, facts in results["tasks"].items()
        for contrast, curves in facts.get("roc", {}).items()
        for reader, curve in curves.items()
        for x, y in curve
    ]
    blocks = [
        {"task": task, "first": b["first"], "last": b["last"], "median_seconds": b["median_seconds"]}
        | {key: b["accuracy"][key] for key in ("value", "low", "high", "num")}
        for task, facts in results["tasks"].items()
        for b in facts.get("blocks", [])
    ]
    return {
        "estimates": results["estimates"],
        "tests": results["tests"],
        "equivalence": equivalence,
        "rating_counts": ratings,
        "roc_points": points,
        "accuracy_by_trial": blocks,
        "comments": results["comments"],
        "readers": results["completeness"]["readers"],
    }


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for record in records for key in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def render_report(results: dict[str, Any]) -> str:
    """The page as one HTML text; every text from the study or its readers is escaped."""
    tasks = [
        {
            "name": task,
            "facts": facts,
            "figures": task_figures(results, task),
            "estimates": [e for e in results["estimates"] if e["task"] == task],
            "tests": [t for t in results["tests"] if t["task"] == task],
            "comments": [c for c in results["comments"] if c["task"] == task],
        }
        for task, facts in results["tasks"].items()
    ]
    html = render_template(
        TEMPLATES / "report.html",
        filters={"n": _number, "p": _p_value, "span": _span},
        r=results,
        c=results["completeness"],
        tasks=tasks,
        verdicts=verdicts(results),
        methods=methods(results),
        num_answers=sum(one["answers"] for one in results["completeness"]["readers"]),
    )
    return re.sub(r"\n\s*\n+", "\n", html)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _p_value(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _span(estimate: Mapping[str, Any]) -> str:
    return (
        "–"
        if estimate["low"] is None or estimate["high"] is None
        else f"{estimate['low']:.3f} to {estimate['high']:.3f}"
    )


def task_figures(results: dict[str, Any], task: str) -> list[dict[str, str]]:
    """The figures of one task with captions."""
    facts, made = results["tasks"][task], []

    def add(svg: str | None, caption: str) -> None:
        if svg:
            made.append({"svg": svg, "caption": caption})

    if "distributions" in facts:
        add(
            rating_chart(f"Ratings, {task}", facts["distributions"]),
            "How often each rating was given, per cent: for each arm all readers together, then each reader.",
        )
        rows, margin = _difference_rows(results, task), facts["margin"]
        shade = f" Shaded: the declared margin, ±{margin}." if margin else " No margin was declared."
        add(
            forest_chart(
                f"Difference in mean rating, {task}",
                rows,
                x_label="rated below real  ←  difference in mean rating  →  rated above real",
                reference=0.0,
                margin=margin,
            )
            if rows
            else None,
            "Difference in mean rating from real items, with intervals." + shade,
        )
    shares = _share_rows(results, task)
    if shares:
        chance, margin = facts["answer"] == "choice", facts["margin"] if facts["answer"] == "choice" else None
        first = 1 + next((i for i, row in enumerate(shares[1:]) if row.value is None), len(shares) - 1)
        words = " 0.5 is guessing." if chance else ""
        add(
            forest_chart(
                f"Accuracy, {task}",
                shares,
                x_label="share of right answers",
                reference=0.5 if chance else None,
                margin=margin,
                margin_rows=first,
                limits=(0.0, 1.0),
            ),
            f"Shares of right answers, with intervals.{words}"
            + (f" Shaded: the declared margin, ±{margin}." if margin else ""),
        )
    for contrast, curves in facts.get("roc", {}).items():
        areas = {e["reader"]: e["value"] for e in _chosen(results, task, "area under the ROC curve", contrast)}
        add(roc_chart(f"ROC, {task}, {contrast}", curves, areas), f"ROC from confidence, {contrast}.")
    if "blocks" in facts:
        add(
            trial_chart(f"Accuracy by trial, {task}", facts["blocks"]),
            "Share of right answers over the trials, all readers; below, the median time of an answer.",
        )
    return made


def _chosen(results: dict[str, Any], task: str, statistic: str, contrast: str | None = None) -> list[dict[str, Any]]:
    return [
        e
        for e in results["estimates"]
        if e["task"] == task
        and e["statistic"] == statistic
        and contrast in (None, e["contrast"])
        and e["value"] is not None
    ]


def _rows_of(estimates: Sequence[Mapping[str, Any]], heading: str) -> list[ForestRow]:
    """A heading, the readers, then both pooled estimates."""
    names = {THESE_READERS: "these readers", NEW_READERS: "new readers"}
    single = [e for e in estimates if e["reader"]]
    pooled = [e for e in estimates if not e["reader"] and e["group"] != "mixed model"]
    rows = [ForestRow(label=heading)]
    rows += [ForestRow(label=e["reader"], value=e["value"], low=e["low"], high=e["high"]) for e in single]
    rows += [
        ForestRow(
            label=f"all: {names[e['population']]}",
            value=e["value"],
            low=e["low"],
            high=e["high"],
            tone="faint" if e["population"] == NEW_READERS else "pooled",
        )
        for e in pooled
    ]
    return rows if len(rows) > 1 else []


def _difference_rows(results: dict[str, Any], task: str) -> list[ForestRow]:
    found = _chosen(results, task, "difference in mean rating")
    contrasts = dict.fromkeys(e["contrast"] for e in found)
    return [row for c in contrasts for row in _rows_of([e for e in found if e["contrast"] == c], c)]


def _share_rows(results: dict[str, Any], task: str) -> list[ForestRow]:
    rows = []
    for statistic in ("balanced accuracy", "accuracy", "sensitivity", "specificity"):
        found = [e for e in _chosen(results, task, statistic) if e["group"] == "detection"]
        for contrast in dict.fromkeys(e["contrast"] for e in found):
            rows += _rows_of([e for e in found if e["contrast"] == contrast], f"{statistic}, {contrast}")
    for finding in dict.fromkeys(
        e["group"] for e in results["estimates"] if e["task"] == task and e["group"].startswith("finding:")
    ):
        found = [e for e in _chosen(results, task, "accuracy") if e["group"] == finding]
        if found:
            rows.append(ForestRow(label=finding.partition(": ")[2] + ": accuracy"))
            rows += [ForestRow(label=e["contrast"], value=e["value"], low=e["low"], high=e["high"]) for e in found]
    return rows
