"""``medcodi turing import``: readers' files, checked against the key, as one tidy table."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcodi import __version__
from medcodi.errors import DataError
from medcodi.turing.answers.results import (
    ResultFile,
    doubtful,
    impossible_time,
    read_result,
    read_sessions,
    wrong_value,
)
from medcodi.turing.bundle.files import new_folder
from medcodi.turing.bundle.key import FORMAT, AnswerKey, read_key
from medcodi.turing.design.tasks import task_kind

TABLE, FACTS = "answers.csv", "import.json"
COLUMNS = (
    "reader",
    "position",
    "trial",
    "task",
    "kind",
    "item",
    "case",
    "patient",
    "arm",
    "practice",
    "repeat_of",
    "rating",
    "choice",
    "confidence",
    "correct",
    "findings_reader",
    "findings_truth",
    "free_text",
    "seconds",
    "answered_at",
)


@dataclass(frozen=True)
class ImportedAnswers:
    """What an import wrote."""

    folder: Path  # with `answers.csv` and `import.json`
    rows: list[dict[str, Any]]  # of the table
    facts: dict[str, Any]  # as in `import.json`


def import_results(files: Iterable[str | Path], key_place: str | Path, out: str | Path) -> ImportedAnswers:
    """Check readers' files and write one table; all or nothing.

    Half-finished sittings are kept and listed; answers whose value or time cannot be are left out and listed.

    Args:
        files: Results (or progress files) as readers downloaded them.
        key_place: The custodian's folder.
        out: A new or empty folder.

    Raises:
        DataError: If the key is lost or changed, or a file is of another bundle, was changed, or contradicts another: every such file is
            named, and nothing is written.
    """
    key = read_key(key_place)
    results, problems = [], []
    for path in [Path(file) for file in files]:
        try:
            result = read_result(path, key)
            read_sessions(result.file, result.values)
            results.append(result)
        except DataError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise DataError(
            f"{len(problems)} files cannot be used: " + " | ".join(str(problem) for problem in problems),
            fix="each file's own is named with it; give the others alone to go on without them",
        )
    if not results:
        raise DataError(
            "no results are given", expected="readers' results files", fix="medcodi turing import results/*.json"
        )
    chosen, superseded = _one_a_reader(results)
    rows, excluded, doubts = _rows(chosen, key)
    facts = _facts(key, chosen, superseded, rows, excluded, doubts)
    with new_folder(out) as staging:
        with (staging / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([row[name] for name in COLUMNS] for row in rows)
        (staging / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return ImportedAnswers(Path(out), rows, facts)


def _one_a_reader(results: Sequence[ResultFile]) -> tuple[list[ResultFile], list[dict[str, str]]]:
    """One file a reader: the finished one, else the one with most answers; earlier ones are listed.

    Raises:
        DataError: If a reader has two finished files that differ.
    """
    by_reader: dict[str, list[ResultFile]] = defaultdict(list)
    for result in results:
        by_reader[result.reader].append(result)
    chosen, superseded = [], []
    for reader, files in sorted(by_reader.items()):
        finished = [one for one in files if one.values.get("complete")]
        if len({json.dumps(one.values["answers"], sort_keys=True) for one in finished}) > 1:
            raise DataError(
                f"{reader} has {len(finished)} finished files with different answers: "
                + ", ".join(one.file for one in finished),
                expected="one",
                fix="ask the reader which one counts, and give that one alone",
            )
        best = max(files, key=lambda one: (bool(one.values.get("complete")), len(one.answers), _last(one)))
        chosen.append(best)
        for one in files:
            if one is not best:
                why = "the same again" if one.sha256 == best.sha256 else f"{best.file} holds more, or is later"
                superseded.append({"file": one.file, "reader": reader, "why": why})
    return chosen, superseded


def _last(result: ResultFile) -> str:
    return max((str(session.get("ended")) for session in result.values["sessions"]), default="")


def _rows(
    results: Sequence[ResultFile], key: AnswerKey
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    tasks = {task.id: task for task in key.study.tasks}
    rows, excluded, doubts = [], [], []
    for result in results:
        sessions = read_sessions(result.file, result.values)
        doubts += doubtful(result, sessions)
        for answer in sorted(result.answers, key=lambda one: one["position"]):
            told = key.trials[result.reader][answer["trial"]]
            why = wrong_value(answer["value"], tasks[told["task"]]) or impossible_time(answer, sessions)
            if why:
                excluded.append(
                    {
                        "reader": result.reader,
                        "trial": answer["trial"],
                        "task": told["task"],
                        "item": told["item"],
                        "why": why,
                    }
                )
            else:
                rows.append(_row(result.reader, answer, told, tasks[told["task"]].kind))
    return rows, excluded, doubts


def _row(reader: str, answer: Mapping[str, Any], told: Mapping[str, Any], kind: str) -> dict[str, Any]:
    value, truth = answer["value"], told["truth"]
    right = truth.get("choice", truth.get("real"))
    findings = value.get("findings")
    return {
        "reader": reader,
        "position": told["position"],
        "trial": answer["trial"],
        "task": told["task"],
        "kind": kind,
        "item": told["item"],
        "case": told["case"],
        "patient": told["patient"],
        "arm": told["arm"],
        "practice": bool(told["practice"]),
        "repeat_of": told["repeat_of"],
        "rating": value.get("rating", ""),
        "choice": value.get("choice", ""),
        "confidence": value.get("confidence", ""),
        "correct": "" if right is None or "choice" not in value else int(value["choice"] == right),
        "findings_reader": "" if findings is None else json.dumps(findings, sort_keys=True),
        "findings_truth": json.dumps(truth["findings"], sort_keys=True) if "findings" in truth else "",
        "free_text": answer.get("free_text") or "",
        "seconds": answer["seconds"],
        "answered_at": answer["answered_at"],
    }


def _facts(
    key: AnswerKey,
    results: Sequence[ResultFile],
    superseded: list[dict[str, str]],
    rows: Sequence[Mapping[str, Any]],
    excluded: list[dict[str, Any]],
    doubts: list[str],
) -> dict[str, Any]:
    study = key.study
    answered = {(result.reader, answer["trial"]) for result in results for answer in result.answers}
    missing = [
        {"reader": result.reader, "trial": trial, "task": told["task"], "item": told["item"]}
        for result in results
        for trial, told in key.trials[result.reader].items()
        if (result.reader, trial) not in answered
    ]
    complete = {result.reader: not any(one["reader"] == result.reader for one in missing) for result in results}
    return {
        "format": FORMAT,
        "medcodi": __version__,
        "study": study.name,
        "title": study.title,
        "bundle_id": key.bundle_id,
        "key_check": "the key's salted SHA-256 is the one that every result was answered under",
        "key_sha256": key.sha256,
        "attestation": key.values.get("provenance", {}).get("attestation"),
        "margins": dict(study.margins),
        "alpha": study.alpha,
        "tasks": {
            task.id: {
                "kind": task.kind,
                "answer": task_kind(task.kind).answer,
                "modalities": list(task.modalities),
                "scale": [task.scale.min, task.scale.max],
            }
            for task in study.tasks
        },
        "files": [
            {
                "file": result.file,
                "reader": result.reader,
                "sha256": result.sha256,
                "complete": complete[result.reader],
                "answers": len(result.answers),
                "of": len(key.trials[result.reader]),
                "viewer_version": result.values.get("viewer_version"),
                "display_check": result.values.get("display_check"),
                "sessions": list(result.values["sessions"]),
            }
            for result in results
        ],
        "readers_without_file": sorted(set(key.trials) - {result.reader for result in results}),
        "rows": len(rows),
        "missing": missing,
        "excluded": excluded,
        "doubtful": doubts,
        "superseded": superseded,
    }
