"""``medcodi turing import``: results files of readers, checked against the key, as one table of answers."""

from __future__ import annotations

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
    StudyFacts,
    doubtful,
    impossible_time,
    read_result,
    read_sessions,
    wrong_value,
)
from medcodi.turing.answers.schema import FACTS, TABLE, write_rows
from medcodi.turing.bundle.files import new_folder
from medcodi.turing.bundle.key import FORMAT, AnswerKey, read_key
from medcodi.turing.design.tasks import task_kind


@dataclass(frozen=True)
class ImportedAnswers:
    """Outcome of an import."""

    folder: Path  # with `answers.csv` and `import.json`
    rows: list[dict[str, Any]]  # cells of the table, by column
    facts: dict[str, Any]  # as in `import.json`


def import_results(files: Iterable[str | Path], key_place: str | Path, out: str | Path) -> ImportedAnswers:
    """Check readers' files and write one table, whole or not at all.

    Files of unfinished readers are used and listed; answers with an invalid value or an impossible time are excluded and listed.

    ``key_place`` is the custodian's folder; ``out`` a new or empty one.

    Raises:
        DataError: If the key is missing or changed, or a file is of another bundle, was changed or contradicts another; names every such
            file.
    """
    key = read_key(key_place)
    study = StudyFacts.of(key)
    # Read every file; report all problems at once.
    results, problems = [], []
    for path in [Path(file) for file in files]:
        try:
            result = read_result(path, study)
            read_sessions(result.file, result.values)
            results.append(result)
        except DataError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise DataError(
            f"{len(problems)} files are unusable: " + " | ".join(str(problem) for problem in problems),
            fix="see the fix of each file; to import without them, give only the others",
        )
    if not results:
        raise DataError(
            "no results are given", expected="readers' results files", fix="medcodi turing import results/*.json"
        )
    # One file per reader, one row per valid answer.
    chosen, superseded = _one_per_reader(results)
    rows, excluded, doubts = _rows(chosen, key)
    facts = _facts(key, chosen, superseded, rows, excluded, doubts)
    with new_folder(out) as staging:
        write_rows(staging / TABLE, rows)
        (staging / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return ImportedAnswers(Path(out), rows, facts)


def _one_per_reader(results: Sequence[ResultFile]) -> tuple[list[ResultFile], list[dict[str, str]]]:
    """One file per reader: the finished one, else the one with most answers; the others are listed.

    Raises:
        DataError: If a reader has two finished files that differ.
    """
    by_reader: dict[str, list[ResultFile]] = defaultdict(list)
    for result in results:
        by_reader[result.reader].append(result)
    chosen, superseded = [], []
    for reader, files in sorted(by_reader.items()):
        finished = [result for result in files if result.values.get("complete")]
        if len({json.dumps(result.values["answers"], sort_keys=True) for result in finished}) > 1:
            raise DataError(
                f"{reader} has {len(finished)} finished files with different answers: "
                + ", ".join(result.file for result in finished),
                expected="one",
                fix="ask the reader which one counts, and give only that one",
            )
        best = max(files, key=lambda result: (bool(result.values.get("complete")), len(result.answers), _ended(result)))
        chosen.append(best)
        for result in files:
            if result is not best:
                why = "the same again" if result.sha256 == best.sha256 else f"{best.file} holds more, or is later"
                superseded.append({"file": result.file, "reader": reader, "why": why})
    return chosen, superseded


def _ended(result: ResultFile) -> str:
    """End of the last session."""
    return max((str(session.get("ended")) for session in result.values["sessions"]), default="")


def _rows(
    results: Sequence[ResultFile], key: AnswerKey
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Rows of the table, excluded answers, and doubts."""
    tasks = {task.id: task for task in key.study.tasks}
    rows, excluded, doubts = [], [], []
    for result in results:
        sessions = read_sessions(result.file, result.values)
        doubts += doubtful(result, sessions)
        for answer in sorted(result.answers, key=lambda answer: answer["position"]):
            entry = key.trials[result.reader][answer["trial"]]
            why = wrong_value(answer["value"], tasks[entry["task"]]) or impossible_time(answer, sessions)
            if why:
                named = {"reader": result.reader, "trial": answer["trial"]}
                excluded.append({**named, "task": entry["task"], "item": entry["item"], "why": why})
            else:
                rows.append(_row(result.reader, answer, entry, tasks[entry["task"]].kind))
    return rows, excluded, doubts


def _row(reader: str, answer: Mapping[str, Any], entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Cells of one answer (see :class:`AnswerRow`), from the reader's file and the entry of the key."""
    value, truth = answer["value"], entry["truth"]
    right = truth.get("choice", truth.get("real"))
    # Only the parts of a value that its kind of task has, and that were checked.
    parts = [task_kind(kind).answer, *(["confidence"] if task_kind(kind).confidence else [])]
    value = {name: value.get(name) for name in parts}
    has_truth = right is not None and "choice" in value
    return {
        "reader": reader,
        "trial": answer["trial"],
        "kind": kind,
        **{name: entry[name] for name in ("position", "task", "item", "case", "patient", "arm", "repeat_of")},
        "practice": bool(entry["practice"]),
        **{name: value.get(name) for name in ("rating", "choice", "confidence")},
        "correct": int(value["choice"] == right) if has_truth else None,
        "findings_reader": value.get("findings"),
        "findings_truth": truth.get("findings"),
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
    """Contents of ``import.json``: what the analysis needs to know beside the rows."""
    study = key.study
    answered = {(result.reader, answer["trial"]) for result in results for answer in result.answers}
    missing = [
        {"reader": result.reader, "trial": trial, "task": entry["task"], "item": entry["item"]}
        for result in results
        for trial, entry in key.trials[result.reader].items()
        if (result.reader, trial) not in answered
    ]
    unfinished = {entry["reader"] for entry in missing}
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
                "complete": result.reader not in unfinished,
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
