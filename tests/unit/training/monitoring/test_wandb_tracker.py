"""Weights & Biases without a network: the real package, its files read back."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medcodi.distributed import Ranks
from medcodi.errors import MissingExtraError
from medcodi.training.monitoring.trackers import RunLog
from tests.unit.training.toy import toy_config

BLOCK = 32 * 1024
WANDB = {"project": "unit", "mode": "offline", "tags": ["short"]}


def config(**changes: Any) -> Any:
    return toy_config(tracking={"tensorboard": False, "wandb": {**WANDB, **changes}})


def log(root: Path, start_step: int = 0, **changes: Any) -> RunLog:
    return RunLog(root, Ranks(), config(**changes), start_step=start_step)


def records(file: Path) -> Iterator[bytes]:
    """Of a session's file: a header of 7 bytes, then blocks of 32 KiB of chunks (checksum, length, kind; LevelDB's log format)."""
    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def told(folder: Path, count: int) -> list[dict[str, Any]]:
    """The lines of one session, once there are so many: the package writes them in a process of its own, a little later."""
    deadline = time.monotonic() + 60
    while len(lines := _lines(folder)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return lines


def _lines(folder: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    lines = []
    for data in records(next(folder.glob("*.wandb"))):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = record.history.item
            lines.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return [line for line in lines if set(line) - {"_step", "_runtime", "_timestamp"}]


def test_a_run_goes_on_under_its_id_and_retells_what_holds_under_another(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    first = log(tmp_path)
    for step in (1, 2):
        first.scalars(step, {"loss": float(step)}, {"seconds_per_step": 0.1})
    first.alerts(2, ["loss spike: loss is 2"])
    first.close()
    run_id = json.loads((tmp_path / "wandb" / "medcodi.json").read_text())["id"]
    sessions = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert [line["loss"] for line in told(sessions[0], 2)] == [1.0, 2.0] and sessions[0].name.endswith(run_id)
    assert told(sessions[0], 2)[0]["timing/seconds_per_step"] == 0.1

    again = log(tmp_path, start_step=2)  # stopped and resumed: nothing was told after step 2
    again.scalars(3, {"loss": 3.0})
    again.close()
    assert json.loads((tmp_path / "wandb" / "medcodi.json").read_text())["id"] == run_id

    third = log(tmp_path, start_step=2)  # killed, and resumed from step 2: step 3 will be told anew
    third.scalars(3, {"loss": 30.0})
    third.close()
    new_id = json.loads((tmp_path / "wandb" / "medcodi.json").read_text())["id"]
    assert new_id != run_id
    last = next((tmp_path / "wandb").glob(f"offline-run-*-{new_id}"))
    assert [(line["_step"], line["loss"]) for line in told(last, 3)] == [(1, 1.0), (2, 2.0), (3, 30.0)]

    (tmp_path / "wandb" / "medcodi.json").unlink()  # as where it is asked for only now
    log(tmp_path, start_step=3).close()
    late_id = json.loads((tmp_path / "wandb" / "medcodi.json").read_text())["id"]
    late = next((tmp_path / "wandb").glob(f"offline-run-*-{late_id}"))
    assert [line["loss"] for line in told(late, 3)] == [1.0, 2.0, 30.0]


def test_disabled_needs_no_package_and_absent_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    log(tmp_path, mode="disabled").close()
    assert not (tmp_path / "wandb").exists()
    with pytest.raises(MissingExtraError, match=r"medcodi\[tracking\]"):
        log(tmp_path)
