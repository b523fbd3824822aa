"""Results files of readers: read, and checked for their bundle, their reader, unchanged contents, valid values and plausible times."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from medcodi.errors import DataError
from medcodi.turing.answers.schema import (
    ANSWER_FIELDS,
    MARKS,
    MOST_BYTES,
    RESULT_FIELDS,
    RESULT_KIND,
    parse_result,
    short,
)
from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.bundle.key import FORMAT, AnswerKey
from medcodi.turing.design.config import TaskConfig
from medcodi.turing.design.tasks import task_kind

SLACK = 5.0  # tolerance for clocks and rounding, in seconds
FASTEST = 0.3  # seconds; a faster answer was given without looking


@dataclass(frozen=True)
class ResultFile:
    """A reader's results file, checked."""

    file: str  # file name
    sha256: str  # hash of the file, without a byte-order mark
    values: Mapping[str, Any]  # contents

    @property
    def reader(self) -> str:
        """Id of the reader."""
        return self.values["reader"]

    @property
    def answers(self) -> Sequence[Mapping[str, Any]]:
        """The answers."""
        return self.values["answers"]


@dataclass(frozen=True)
class StudyFacts:
    """Facts of a study that results are checked against: as much of the answer key as the readers' folders hold too."""

    bundle_id: str
    key_sha256: str  # of the answer key
    study_sha256: str  # of the study's config
    trials: Mapping[str, Mapping[str, Mapping[str, Any]]]  # reader -> trial -> its position, task, practice

    @classmethod
    def of(cls, key: AnswerKey) -> StudyFacts:
        """The facts in an answer key."""
        return cls(key.bundle_id, key.sha256, key.study_sha256, key.trials)


def read_result(path: Path, study: StudyFacts) -> ResultFile:
    """Read a reader's file and check it against the study.

    Raises:
        DataError: If it is no results file, was changed, or belongs to another bundle, key or study.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path.name} has {path.stat().st_size:,} bytes", expected=f"at most {MOST_BYTES:,}")
        data = path.read_bytes()
    except OSError:
        raise DataError(f"no result at {path}", expected="a reader's results file", fix="check the path") from None
    return check_result(path.name, data, study)


def check_result(file: str, data: bytes, study: StudyFacts) -> ResultFile:
    """Check the bytes of a results file; ``file`` is its name in the messages.

    Raises:
        DataError: As :func:`read_result`.
    """
    data = data.removeprefix(codecs.BOM_UTF8)  # a byte-order mark is no content
    try:
        values = parse_result(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not JSON ({error})", fix="let the reader download it again") from None
    except ValueError as error:
        raise DataError(
            f"{file} is invalid: {error}",
            expected="a file as the viewer saves it",
            fix="let the reader download it again",
        ) from None
    if values.get("kind") != RESULT_KIND:
        raise DataError(f"{file} is no results file", expected=f"kind {RESULT_KIND!r}", fix="leave it out")
    missing = [name for name in RESULT_FIELDS if name not in values]
    if values.get("format") != FORMAT or missing:
        raise DataError(
            f"{file} has format {values.get('format')!r}" + (f" and lacks {', '.join(missing)}" if missing else ""),
            expected=f"format {FORMAT}",
            fix="the version of medcodi that exported the bundle",
        )
    # The right bundle, unchanged, and this reader's own trials.
    _check_belongs(file, values, study)
    _check_checksum(file, values)
    _check_answers(file, values, study)
    return ResultFile(file, hashlib.sha256(data).hexdigest(), values)


def _check_belongs(file: str, values: Mapping[str, Any], study: StudyFacts) -> None:
    if values["bundle_id"] != study.bundle_id:
        raise DataError(
            f"{file} is of bundle {values['bundle_id']!r}",
            expected=f"bundle {study.bundle_id!r}",
            fix="leave it out, or give that bundle's key",
        )
    if values["key_sha256"] != study.key_sha256:
        raise DataError(
            f"{file} was answered under a key with SHA-256 {str(values['key_sha256'])[:12]}..., this key has {study.key_sha256[:12]}...",
            expected="the key as it was exported",
            fix="use the copy of key.json: this one, or the result, was changed",
        )
    if values["study_sha256"] != study.study_sha256:
        raise DataError(
            f"{file} was answered under another config of the study",
            expected="the study in the key",
            fix="leave it out",
        )
    if values["reader"] not in study.trials:
        raise DataError(
            f"{file} is of reader {values['reader']!r}",
            expected="one of " + ", ".join(study.trials),
            fix="leave it out",
        )
    if not (values.get("consent") or {}).get("given"):
        raise DataError(f"{file} holds no consent", expected="a reader who agreed to take part", fix="leave it out")


def _check_checksum(file: str, values: Mapping[str, Any]) -> None:
    rest = {name: value for name, value in values.items() if name != "checksum"}
    try:
        checksum = sha256_of(rest)
    except ValueError as error:
        raise DataError(
            f"{file} holds a value that no viewer writes: {error}", fix="let the reader download it again"
        ) from None
    if checksum != values["checksum"]:
        raise DataError(
            f"{file} was changed after it was saved: its checksum is wrong",
            expected="the file as the viewer saved it",
            fix="ask the reader for the original download",
        )


def _check_answers(file: str, values: Mapping[str, Any], study: StudyFacts) -> None:
    trials = study.trials[values["reader"]]
    seen: set[str] = set()
    for answer in values["answers"]:
        missing = [name for name in ANSWER_FIELDS if name not in answer]
        if missing:
            raise DataError(f"{file}: an answer lacks {', '.join(missing)}", fix="let the reader download it again")
        shown = trials.get(answer["trial"])
        if shown is None:
            raise DataError(
                f"{file} answers trial {answer['trial']!r}, which {values['reader']} was not shown",
                expected="answers to this reader's own trials",
                fix="ask the reader for the original download",
            )
        if answer["trial"] in seen:
            raise DataError(
                f"{file} answers trial {answer['trial']!r} twice", fix="ask the reader for the original download"
            )
        seen.add(answer["trial"])
        if any(answer[name] != shown[name] for name in ("position", "task", "practice")):
            raise DataError(
                f"{file}: trial {answer['trial']!r} is at position {answer['position']} of task {answer['task']!r}",
                expected=f"position {shown['position']} of task {shown['task']!r}",
                fix="ask the reader for the original download",
            )


# ---- single answers ------------------------------------------------------------------------------------------------
def wrong_value(value: Any, task: TaskConfig) -> str:
    """Why the value of an answer is invalid; "" if it is valid."""
    kind = task_kind(task.kind)
    if not isinstance(value, dict):
        return f"its value is {value!r}"
    if kind.answer == "rating":
        return _wrong_number(value.get("rating"), "rating", task.scale.min, task.scale.max)
    if kind.answer == "findings":
        marks = value.get("findings")
        valid = (
            isinstance(marks, dict)
            and set(marks) == set(task.findings)
            and all(isinstance(mark, str) and mark in MARKS for mark in marks.values())
        )
        return "" if valid else f"its findings are {short(marks)}"
    if value.get("choice") not in kind.choices:
        return f"its choice is {value.get('choice')!r}, not one of {', '.join(kind.choices)}"
    if kind.confidence:
        return _wrong_number(value.get("confidence"), "confidence", task.confidence.min, task.confidence.max)
    return ""


def _wrong_number(value: Any, what: str, low: int, high: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        return f"its {what} is {value!r}, not a whole number from {low} to {high}"
    return ""


def impossible_time(answer: Mapping[str, Any], sessions: Sequence[tuple[datetime, datetime]]) -> str:
    """Why the time of an answer is impossible; "" if it is possible."""
    seconds = answer["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
        return f"it took {seconds!r} seconds"
    # Not longer than all sessions together.
    lasted = sum((ended - started).total_seconds() for started, ended in sessions)
    if seconds > lasted + SLACK:
        return f"it took {seconds} seconds, all sessions together lasted {lasted:.0f}"
    # Within a session.
    at = read_time(answer["answered_at"])
    if at is None:
        return f"it was answered at {answer['answered_at']!r}"
    near = any(
        (started - at).total_seconds() <= SLACK and (at - ended).total_seconds() <= SLACK for started, ended in sessions
    )
    return "" if near else f"it was answered at {answer['answered_at']}, outside every session"


def read_sessions(file: str, values: Mapping[str, Any]) -> list[tuple[datetime, datetime]]:
    """Start and end of every session.

    Raises:
        DataError: If one is unreadable, or ends before it starts.
    """
    sessions = []
    for session in values["sessions"]:
        started, ended = read_time(session.get("started")), read_time(session.get("ended"))
        if started is None or ended is None or ended < started:
            raise DataError(
                f"{file}: a session from {session.get('started')!r} to {session.get('ended')!r}",
                expected="an end after its start",
                fix="the clock of that computer may have been set back; leave the file out, or ask the reader",
            )
        sessions.append((started, ended))
    return sessions


def doubtful(result: ResultFile, sessions: Sequence[tuple[datetime, datetime]]) -> Iterator[str]:
    """Doubts: possible values that should be checked; nothing is excluded for them."""
    lasted = sum((ended - started).total_seconds() for started, ended in sessions)
    spent = sum(float(answer["seconds"]) for answer in result.answers if isinstance(answer["seconds"], int | float))
    if spent > lasted + SLACK + 0.01 * lasted:
        yield f"{result.reader}: the items' times add up to {spent:.0f} s, the sessions to {lasted:.0f} s"
    fast = [
        answer
        for answer in result.answers
        if isinstance(answer["seconds"], int | float) and answer["seconds"] < FASTEST
    ]
    if fast:
        yield f"{result.reader}: {len(fast)} answers in less than {FASTEST} s"
    for (_, ended), (started, _) in pairwise(sessions):
        if started < ended:
            yield f"{result.reader}: a session started at {started.isoformat()}, before the previous one had ended"
    if not (result.values.get("display_check") or {}).get("passed"):
        yield f"{result.reader}: the display check was not passed"


def read_time(text: Any) -> datetime | None:
    """An ISO time with a time zone; None if it is not one."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else None
