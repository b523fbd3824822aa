"""Report of an analysis: ``report.html`` with its charts, ``results.json``, CSV tables, a methods paragraph, iMRMC files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.data.tables import spreadsheet_row
from medcodi.pages.bars import rating_chart
from medcodi.pages.charts import ForestRow, forest_chart, roc_chart, trial_chart
from medcodi.pages.page import render_template
from medcodi.storage.names import plain_name
from medcodi.turing.analysis.wording import methods, verdicts
from medcodi.turing.answers.table import Answers, TaskAnswers
from medcodi.turing.bundle.files import new_folder
from medcodi.turing.statistics import NEW_READERS, THESE_READERS

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(results: dict[str, Any], answers: Answers, out: str | Path) -> Path:
    """Write everything into a new or empty folder, whole or not at all; returns the page.

    Raises:
        DataError: If the folder is not empty, cannot be written, or a task's name is no file name.
    """
    out = Path(out)
    files = {
        "report.html": render_report(results),
        "results.json": json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "methods.txt": "\n\n".join(methods(results)) + "\n",
    }
    files |= {f"tables/{name}.csv": _csv(records) for name, records in tables(results).items()}
    # iMRMC: tasks with a score for each item and items of both arms.
    for task, kind in answers.tasks.items():
        if task in results["tasks"] and kind.answer != "findings" and len(kind.sides) == 1:
            own = answers.of(task)
            if {"real", "generated"} <= set(own.arm):
                files[f"imrmc/{plain_name(f'{task}.imrmc', answers.source)}"] = imrmc_text(own)
    with new_folder(out) as staging:
        for name, text in files.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return out / "report.html"


# ---- tables ----------------------------------------------------------------------------------------------------------
def tables(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Tables of the results: name -> rows."""
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
    writer.writerows(map(spreadsheet_row, records))
    return buffer.getvalue()


def imrmc_text(answers: TaskAnswers) -> str:
    """Input file of iMRMC, the FDA's program for multi-reader multi-case studies: generated is positive, scores rise towards it.

    Rows are ``reader,case,modality,score``; rows with reader -1 and modality 0 hold the truth. Choices are scored by signed confidence
    (-1 and 1 without confidence), ratings by their negative. Every item is a case of its own, because a case has one truth there.
    """
    if answers.kind.answer == "rating":
        scores = -answers.matrix("rating")
    else:
        confidence = answers.matrix("confidence")
        scores = (2 * answers.says_generated - 1) * np.where(np.isfinite(confidence), confidence, 1.0)
    compared = np.isin(answers.arm, ("real", "generated")) & np.isfinite(scores).any(axis=0)
    items = np.flatnonzero(compared).tolist()
    positive = {i for i in items if answers.arm[i] == "generated"}
    # Header, truth of the items, scores of the readers.
    lines = [
        f"Visual Turing Test, task {answers.task}: real against generated",
        f"NR: {len(answers.readers)}",
        f"N0: {len(items) - len(positive)}",
        f"N1: {len(positive)}",
        "NM: 1",
        "BEGIN DATA:",
    ]
    names = answers.items
    lines += [f"-1,{_field(names[i])},0,{int(i in positive)}" for i in items]
    for r, reader in enumerate(answers.readers):
        lines += [
            f"{_field(reader)},{_field(names[i])},{_field(answers.task)},{scores[r, i]:g}"
            for i in items
            if np.isfinite(scores[r, i])
        ]
    return "\n".join(lines) + "\n"


def _field(text: str) -> str:
    """A name without the separators of the format."""
    return re.sub(r"[,\s]", "_", text)


# ---- page ------------------------------------------------------------------------------------------------------------
def render_report(results: dict[str, Any]) -> str:
    """The page as one HTML text; texts of the study and its readers are escaped."""
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
        TEMPLATE,
        filters={"n": _number, "p": _p_value, "span": _span},
        r=results,
        c=results["completeness"],
        tasks=tasks,
        verdicts=verdicts(results),
        methods=methods(results),
        num_answers=sum(reader["answers"] for reader in results["completeness"]["readers"]),
    )
    return re.sub(r"\n\s*\n+", "\n", html)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _p_value(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _span(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["low"], estimate["high"]
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


# ---- charts ----------------------------------------------------------------------------------------------------------
def task_figures(results: dict[str, Any], task: str) -> list[dict[str, str]]:
    """The charts of one task (``svg``), each with a ``caption``."""
    facts = results["tasks"][task]
    figures = []
    # Ratings: distributions, and differences from real items.
    if "distributions" in facts:
        svg = rating_chart(f"Ratings, {task}", facts["distributions"])
        figures.append((svg, "Share of each rating in per cent: for each arm all readers together, then each reader."))
        if rows := _difference_rows(results, task):
            svg = forest_chart(
                f"Difference in mean rating, {task}",
                rows,
                x_label="rated below real  ←  difference in mean rating  →  rated above real",
                reference=0.0,
                margin=facts["margin"],
            )
            shade = _shade(facts["margin"]) or " No margin was declared."
            figures.append((svg, "Difference in mean rating from real items, with intervals." + shade))
    # Choices and findings: shares of right answers; the margin is about the first group of rows.
    if shares := _share_rows(results, task):
        choice = facts["answer"] == "choice"
        margin = facts["margin"] if choice else None
        svg = forest_chart(
            f"Accuracy, {task}",
            shares,
            x_label="share of right answers",
            reference=0.5 if choice else None,
            margin=margin,
            margin_rows=1 + next((i for i, row in enumerate(shares[1:]) if row.value is None), len(shares) - 1),
            limits=(0.0, 1.0),
        )
        guessing = " 0.5 is guessing." if choice else ""
        figures.append((svg, "Shares of right answers, with intervals." + guessing + _shade(margin)))
    for contrast, curves in facts.get("roc", {}).items():
        areas = {e["reader"]: e["value"] for e in _chosen(results, task, "area under the ROC curve", contrast)}
        figures.append((roc_chart(f"ROC, {task}, {contrast}", curves, areas), f"ROC from confidence, {contrast}."))
    # Learning.
    if "blocks" in facts:
        caption = "Share of right answers over the trials, all readers; below, the median time of an answer."
        figures.append((trial_chart(f"Accuracy by trial, {task}", facts["blocks"]), caption))
    return [{"svg": svg, "caption": caption} for svg, caption in figures]


def _shade(margin: float | None) -> str:
    return f" Shaded: the declared margin, ±{margin}." if margin else ""


def _chosen(results: dict[str, Any], task: str, statistic: str, contrast: str | None = None) -> list[dict[str, Any]]:
    """Estimates of one statistic of a task that have a value."""
    return [
        e
        for e in results["estimates"]
        if e["task"] == task
        and e["statistic"] == statistic
        and contrast in (None, e["contrast"])
        and e["value"] is not None
    ]


def _rows_of(estimates: Sequence[Mapping[str, Any]], heading: str) -> list[ForestRow]:
    """Rows of a forest chart: a heading, the readers, then the pooled estimates of both populations."""
    names = {THESE_READERS: "these readers", NEW_READERS: "new readers"}
    single = [e for e in estimates if e["reader"]]
    pooled = [e for e in estimates if not e["reader"] and e["group"] != "mixed model"]
    rows = [ForestRow(label=heading)]
    rows += [ForestRow.of(e["reader"], e) for e in single]
    tones = {THESE_READERS: "pooled", NEW_READERS: "faint"}
    rows += [ForestRow.of(f"all: {names[e['population']]}", e, tones[e["population"]]) for e in pooled]
    return rows if len(rows) > 1 else []


def _difference_rows(results: dict[str, Any], task: str) -> list[ForestRow]:
    estimates = _chosen(results, task, "difference in mean rating")
    contrasts = dict.fromkeys(e["contrast"] for e in estimates)
    return [row for c in contrasts for row in _rows_of([e for e in estimates if e["contrast"] == c], c)]


def _share_rows(results: dict[str, Any], task: str) -> list[ForestRow]:
    rows = []
    for statistic in ("balanced accuracy", "accuracy", "sensitivity", "specificity"):
        estimates = [e for e in _chosen(results, task, statistic) if e["group"] == "detection"]
        for contrast in dict.fromkeys(e["contrast"] for e in estimates):
            rows += _rows_of([e for e in estimates if e["contrast"] == contrast], f"{statistic}, {contrast}")
    # Findings: accuracy of each, by arm.
    accuracies = [e for e in _chosen(results, task, "accuracy") if e["group"].startswith("finding:")]
    for group in dict.fromkeys(e["group"] for e in accuracies):
        rows.append(ForestRow(label=group.partition(": ")[2] + ": accuracy"))
        rows += [ForestRow.of(e["contrast"], e) for e in accuracies if e["group"] == group]
    return rows
