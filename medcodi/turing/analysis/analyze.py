"""Analysis of all answers: every task, tests corrected together, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from medcodi import __version__
from medcodi.errors import ConfigError, DataError, did_you_mean
from medcodi.metrics.paired import holm
from medcodi.turing.analysis.task_results import TaskResults
from medcodi.turing.analysis.tasks import ANALYSES
from medcodi.turing.answers.schema import AnswerRow
from medcodi.turing.answers.table import Answers
from medcodi.turing.statistics import THESE_READERS, consistency
from medcodi.turing.statistics.equivalence import check_margin


def analyze(
    answers: Answers, *, tasks: list[str] | None = None, num_resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Analyse every task.

    Args:
        answers: Answers; margins and alpha come from their facts, as the study declared them.
        tasks: Only these; None: all.
        num_resamples: Bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        JSON-ready: "study", "alpha", "readers", "tasks" (task -> facts and chart data), flat records "estimates", "tests" and "equivalences",
        "comments", "completeness", "problems". The main test of each task and contrast has "p_holm".

    Raises:
        DataError: If a task is unknown, or none can be analysed.
        ConfigError: If a margin is invalid, or for no task.
    """
    margins = declared_margins(answers)
    alpha = float(answers.facts.get("alpha", 0.05))
    results: dict[str, Any] = {
        "format": 1,
        "kind": "medcodi-turing-analysis",
        "medcodi": __version__,
        "study": answers.facts.get("study") or "",
        "title": answers.facts.get("title") or answers.facts.get("study") or "",
        "bundle_id": answers.facts.get("bundle_id") or "",
        "alpha": alpha,
        "level": 1 - alpha,
        "num_resamples": num_resamples,
        "seed": seed,
        "readers": answers.readers,
        "completeness": completeness(answers),
        "tasks": {},
        "estimates": [],
        "tests": [],
        "equivalences": [],
        "comments": comments(answers),
        "problems": [],
    }
    # Task by task; one that cannot be analysed becomes a problem.
    analysed = 0
    for task in list(answers.tasks) if tasks is None else tasks:
        own = TaskResults(
            task=task, level=1 - alpha, seed=seed, num_resamples=num_resamples, margin=margins.get(task), alpha=alpha
        )
        analysed += _analyze_task(answers, own, results)
    if not analysed:
        raise DataError(
            "no task can be analysed: " + " ".join(problem["what"] for problem in results["problems"]),
            fix="import more results",
        )
    _correct_together(results["tests"])
    return results


def _analyze_task(answers: Answers, own: TaskResults, results: dict[str, Any]) -> bool:
    """Add one task to the results; False if it cannot be analysed."""
    task = answers.of(own.task)
    facts: dict[str, Any] = {
        "kind": task.kind.name,
        "answer": task.kind.answer,
        "question": task.kind.question,
        "modalities": answers.facts.get("tasks", {}).get(own.task, {}).get("modalities", []),
        "margin": own.margin,
        "items": dict(Counter(str(arm) for arm in task.arm)),
        "answers": {reader: sum(row["reader"] == reader for row in task.rows) for reader in task.readers},
        "median_seconds": _median_seconds(task.rows),
    }
    try:
        if not task.rows:
            raise DataError(f"task {own.task!r} has practice answers only", fix="wait for more answers")
        ANALYSES[task.kind.answer](task, own)
        _add_repeats(answers, own, ordered=task.kind.answer == "rating")
        analysed = True
    except DataError as error:
        results["problems"].append({"task": own.task, "what": str(error)})
        analysed = False
    results["tasks"][own.task] = facts | own.extra | {"notes": own.notes}
    for name in ("estimates", "tests", "equivalences"):
        results[name] += getattr(own, name)
    return analysed


def _add_repeats(answers: Answers, own: TaskResults, *, ordered: bool) -> None:
    """Consistency of repeated answers, over all readers and for each."""
    pairs = answers.repeats(own.task)
    if pairs is None or not pairs.num:
        return
    pooled = consistency.pooled_repeats(pairs, ordered=ordered, level=own.level)
    own.add("repeats", "same answer twice", pooled["same"])
    own.add("repeats", "kappa of first and second answer", pooled["kappa"])
    for reader, estimate in zip(pairs.readers, consistency.reader_repeats(pairs, level=own.level), strict=True):
        own.add("repeats", "same answer twice", estimate, reader=reader)
    own.extra["within_reader_sd"] = pooled["within_sd"]


def _median_seconds(rows: Sequence[AnswerRow]) -> dict[str, float]:
    """Arm -> median time of an answer."""
    times: dict[str, list[float]] = {}
    for row in rows:
        if np.isfinite(row["seconds"]):
            times.setdefault(row["arm"], []).append(row["seconds"])
    return {arm: round(float(np.median(values)), 2) for arm, values in sorted(times.items())}


def _correct_together(tests: list[dict[str, Any]]) -> None:
    """Holm's correction over the main tests of the study: one for each task and contrast, over all readers."""
    main = [
        test
        for test in tests
        if not test["reader"]
        and test["population"] == THESE_READERS
        and (test["test"].endswith("item means") or test["group"] != "ratings")
    ]
    for test, p in zip(main, holm([test["p"] for test in main]), strict=True):
        test["p_holm"] = p


def declared_margins(answers: Answers) -> dict[str, float]:
    """Margins that the study declared, checked.

    Raises:
        ConfigError: If one is not positive, or for no task.
    """
    margins = dict(answers.facts.get("margins") or {})
    known = set(answers.tasks) | set(answers.facts.get("tasks", {}))
    for task, margin in margins.items():
        if task not in known:
            raise ConfigError(
                f"a margin for {task!r}, which is no task of the study",
                expected="a task's id",
                fix=did_you_mean(task, known),
            )
        check_margin(margin, task=task)
    return margins


def completeness(answers: Answers) -> dict[str, Any]:
    """Who finished, and what is missing or excluded: from the import, else from the table itself."""
    facts = answers.facts
    counted = Counter(row["reader"] for row in answers.rows)
    files = {file["reader"]: file for file in facts.get("files", [])}
    most = max(counted.values())
    readers = []
    for reader in answers.readers:
        file = files.get(reader, {})
        given, of = file.get("answers") or counted[reader], file.get("of", most)  # excluded answers were given, too
        finished = file.get("complete", given >= of)
        readers.append({"reader": reader, "answers": given, "of": of, "finished": finished})
    return {
        "readers": readers,
        "half_finished": [reader["reader"] for reader in readers if not reader["finished"]],
        "without_file": list(facts.get("readers_without_file", [])),
        "missing": len(facts.get("missing", [])),
        "excluded": list(facts.get("excluded", [])),
        "doubtful": list(facts.get("doubtful", [])),
        "known_from": "import.json" if facts else "the table alone",
    }


def comments(answers: Answers) -> list[dict[str, Any]]:
    """Free texts of the readers, practice excluded."""
    return [
        {
            "reader": row["reader"],
            "task": row["task"],
            "item": row["item"],
            "arm": row["arm"],
            "free_text": row["free_text"],
        }
        for row in answers.rows
        if row["free_text"].strip() and not row["practice"]
    ]
