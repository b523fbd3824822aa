"""Simulated reader studies as rows of the table of answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from medcodi.turing.answers.schema import COLUMNS
from medcodi.turing.power.simulation import ReaderModel, SimulatedStudy, simulate


def tidy_rows(
    study: SimulatedStudy, *, rating_task: str = "realism", detection_task: str = "detection", repeats: int = 0
) -> list[dict[str, Any]]:
    """A rating task, then a real-or-generated task, then ``repeats`` repeated ratings."""
    rows = []
    num = len(study.generated)
    for r, reader in enumerate(study.readers):
        for item in range(num):
            shared = _row(study, reader, item)
            seconds = round(float(study.seconds[r, item]), 2)
            rows.append(
                shared
                | {"task": rating_task, "kind": "rating", "position": int(study.order[r, item]), "seconds": seconds}
                | {"rating": study.ratings[r, item]}
            )
            choice = "generated" if study.says_generated[r, item] else "real"
            rows.append(
                shared
                | {"task": detection_task, "kind": "real_or_generated", "position": num + int(study.order[r, item])}
                | {"choice": choice, "confidence": study.confidence[r, item], "seconds": seconds}
                | {"correct": int((choice == "generated") == bool(study.generated[item]))}
            )
        for item in range(min(repeats, num)):
            rows.append(
                _row(study, reader, item)
                | {"task": rating_task, "kind": "rating", "position": 2 * num + item, "seconds": study.model.seconds}
                | {"rating": study.again[r, item], "repeat_of": f"item-{item:03d}", "item": f"item-{item:03d}-again"}
            )
    return rows


def _row(study: SimulatedStudy, reader: str, item: int) -> dict[str, Any]:
    case = f"case-{study.case[item]:03d}"
    arm = "generated" if study.generated[item] else "real"
    return {"reader": reader, "item": f"item-{item:03d}", "case": case, "patient": case, "arm": arm, "practice": False}


FACTS = {"study": "demo", "margins": {"realism": 0.7, "detection": 0.15}, "alpha": 0.05}


def simulated(**changes: Any) -> list[dict[str, Any]]:
    study = simulate(ReaderModel(**changes.pop("model", {})), "analysis", num_readers=3, num_per_arm=20, **changes)
    return tidy_rows(study, repeats=16)


def write_table(folder: Path, rows: list[dict[str, Any]], facts: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    if facts is not None:
        (folder / "import.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def chosen(results: dict[str, Any], **wanted: str) -> list[dict[str, Any]]:
    return [e for e in results["estimates"] if all(e[key] == value for key, value in wanted.items())]
