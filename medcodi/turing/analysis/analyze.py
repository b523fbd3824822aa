"""From the tidy table of answers to results: every task analysed, tests corrected together, what is missing listed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from medcodi import __version__
from medcodi.errors import ConfigError, DataError, did_you_mean
from medcodi.turing.analysis.task_results import Findings
from medcodi.turing.analysis.tasks import ANALYSES
from medcodi.turing.answers.table import Answers
from medcodi.turing.statistics import THESE_READERS, consistency
from medcodi.turing.statistics.equivalence import check_margin
from medcodi.turing.statistics.ratings import holm

ARMS = ("real", "generated", "autoencoded", "mismatched", "pair")


def analyze(
    answers: Answers, *, tasks: list[str] | None = None, num_resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Analyse every task.

    Args:
        answers: The tidy table; margins and alpha come from its facts, as the study declared them.
        tasks: Only these; None: all.
        num_resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        JSON-ready: "study", "alpha", "readers", "tasks" (task -> facts and figures' data), "estimates", "tests", "equivalences" (flat
        records), "comments", "completeness", "problems". Tests of one answer to one question (a pooled test for each task and contrast)
        carry "p_holm".

    Raises:
        DataError: If a task is unknown, or none can be analysed.
        ConfigError: If a margin is for no task, or is no positive number.
    """
    margins = declared_margins(answers)
    alpha = float(answers.facts.get("alpha", 0.05))
    chosen = list(answers.tasks) if tasks is None else tasks
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
    analysed = 0
    for task in chosen:
        found = Findings(
            task=task,
            level=1 - alpha,
            seed=seed,
            num_resamples=num_resamples,
            margin=margins.get(task),
            alpha=alpha,
        )
        analysed += _analyze_task(answers, found, results)
    if not analysed:
        raise DataError(
            "no task can be analysed: " + " ".join(problem["what"] for problem in results["problems"]),
            fix="import more results",
        )
    _correct_together(results["tests"])
    return results


def _analyze_task(answers: Answers, found: Findings, results: dict[str, Any]) -> bool:
    """Add one task to the results; a task that cannot be analysed is listed among the problems."""
    own = answers.of(found.task)
    told = answers.facts.get("tasks", {}).get(found.task, {})
    facts: dict[str, Any] = {
        "kind": own.kind.name,
        "answer": own.kind.answer,
        "question": own.kind.question,
        "modalities": told.get("modalities", []),
        "margin": found.margin,
        "items": dict(Counter(str(arm) for arm in own.arm)),
        "answers": {reader: sum(row["reader"] == reader for row in own.rows) for reader in own.readers},
        "median_seconds": _median_seconds(own.rows),
    }
    try:
        if not own.rows:
            raise DataError(f"task {found.task!r} has practice answers only", fix="wait until readers went further")
        ANALYSES[own.kind.answer](own, found)
        _repeats(answers, found, ordered=own.kind.answer == "rating")
        worked = True
    except DataError as error:
        results["problems"].append({"task": found.task, "what": str(error)})
        worked = False
    results["tasks"][found.task] = facts | found.extra | {"notes": found.notes}
    for name in ("estimates", "tests", "equivalences"):
        results[name] += getattr(found, name)
    return worked


def _repeats(answers: Answers, found: Findings, *, ordered: bool) -> None:
    pairs = answers.repeats(found.task)
    if pairs is None or not pairs.num:
        return
    pooled = consistency.pooled_repeats(pairs, ordered=ordered, level=found.level)
    found.add("repeats", "same answer twice", pooled["same"])
    found.add("repeats", "kappa of first and second answer", pooled["kappa"])
    for reader, estimate in zip(pairs.readers, consistency.reader_repeats(pairs, level=found.level), strict=True):
        found.add("repeats", "same answer twice", estimate, reader=reader)
    found.extra["within_reader_sd"] = pooled["within_sd"]


def _median_seconds(rows: Any) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for row in rows:
        if np.isfinite(row["seconds"]):
            times.setdefault(row["arm"], []).append(row["seconds"])
    return {arm: round(float(np.median(values)), 2) for arm, values in sorted(times.items())}


def _correct_together(tests: list[dict[str, Any]]) -> None:
    """Holm's correction over the study's main tests: one for each task and contrast, that of all readers together."""
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
    """Margins of the study file, checked.

    Raises:
        ConfigError: If one is for no task, or no positive number.
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
    """Who finished, what is missing or excluded; from the import, else from the table itself."""
    facts = answers.facts
    counted = Counter(row["reader"] for row in answers.rows)
    files = {one["reader"]: one for one in facts.get("files", [])}
    most = max(counted.values())
    readers = []
    for reader in answers.readers:
        told = files.get(reader, {})
        given, of = told.get("answers") or counted[reader], told.get("of", most)  # excluded answers were given, too
        readers.append({"reader": reader, "answers": given, "of": of, "finished": told.get("complete", given >= of)})
    return {
        "readers": readers,
        "half_finished": [one["reader"] for one in readers if not one["finished"]],
        "without_file": list(facts.get("readers_without_file", [])),
        "missing": len(facts.get("missing", [])),
        "excluded": list(facts.get("excluded", [])),
        "doubtful": list(facts.get("doubtful", [])),
        "known_from": "import.json" if facts else "the table alone",
    }


def comments(answers: Answers) -> list[dict[str, Any]]:
    """What readers wrote."""
    kept = ("reader", "task", "item", "arm", "free_text")
    return [
        {name: row[name] for name in kept} for row in answers.rows if row["free_text"].strip() and not row["practice"]
    ]
