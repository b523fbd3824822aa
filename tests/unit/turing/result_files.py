"""Results files as the viewer writes them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.bundle.files import read_study_script

START = datetime(2026, 3, 1, 9, tzinfo=UTC)


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in values.items() if name != "checksum"}
    return {**rest, "checksum": sha256_of(json.loads(json.dumps(rest)))}


def answered(bundle: Path, reader: str, num: int | None = None) -> dict[str, Any]:
    """A result as the viewer writes it: the n-th trial is answered after 10 n seconds; ratings and choices go by turns."""
    study = read_study_script(bundle / "readers" / reader / "study.js")
    tasks = {task["id"]: task for task in study["tasks"]}
    answers = []
    for trial in study["trials"][:num]:
        task, place = tasks[trial["task"]], trial["position"]
        value: dict[str, Any] = {"rating": 1 + place % 5}
        if task["findings"]:
            value = {"findings": {name: "present" if place % 2 else "absent" for name in task["findings"]}}
        elif task["choices"]:
            value = {"choice": task["choices"][place % 2]} | (
                {"confidence": 1 + place % 5} if task["confidence"] else {}
            )
        at = (START + timedelta(seconds=10 * (place + 1))).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        answers.append(
            {
                "position": place, "trial": trial["trial"], "task": trial["task"], "practice": trial["practice"], "value": value,
                "free_text": "too smooth, é" if place == 4 else "", "seconds": 9.25, "visits": 1, "changes": 0, "answered_at": at,
                "window": [0, 65535],
            }
        )  # fmt: skip
    ended = START + timedelta(seconds=10 * len(study["trials"]) + 10)
    return sealed(
        {
            "format": 1, "kind": "medcodi-turing-results", "viewer_version": "1",
            **{name: study[name] for name in ("bundle_id", "reader", "key_sha256", "study_sha256")},
            "complete": num is None, "consent": {"given": True, "at": START.isoformat()},
            "display_check": {"passed": True, "answer": "yes"},
            "environment": {"user_agent": "test", "screen": [1280, 800], "device_pixel_ratio": 1.5},
            "sessions": [{"started": START.isoformat(), "ended": ended.isoformat()}], "answers": answers,
        }
    )  # fmt: skip


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "answers.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def changed(result: dict[str, Any], change: Callable[[dict[str, Any]], Any], *, seal: bool) -> dict[str, Any]:
    copy = json.loads(json.dumps(result))
    change(copy)
    return sealed(copy) if seal else copy
