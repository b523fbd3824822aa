"""Means and log files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from medcodi.training.processes import Processes
from medcodi.training.tracking import Means, RunLog


def test_means_leave_nan_out_and_begin_anew() -> None:
    means = Means()
    means.add({"loss": torch.tensor(1.0), "lateral": torch.tensor(math.nan)})
    means.add({"loss": 2.0, "lateral": 4.0})
    assert means.take(Processes()) == {"loss": 1.5, "lateral": 4.0}
    assert means.take(Processes()) == {}


def test_means_go_on_after_json_bit_for_bit() -> None:
    values = [0.1, 0.2, 0.3, 0.7]
    whole, first, second = Means(), Means(), Means()
    for value in values:
        whole.add({"loss": value})
    for value in values[:2]:
        first.add({"loss": value})
    second.load(json.loads(json.dumps(first.state())))
    for value in values[2:]:
        second.add({"loss": value})
    assert second.take(Processes()) == whole.take(Processes())


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = RunLog(tmp_path, Processes(), start_step=0, tensorboard=False)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": float(step)}, {"seconds_per_step": 0.1})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    RunLog(tmp_path, Processes(), start_step=2, tensorboard=False).close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and lines[0]["timing"] == {"seconds_per_step": 0.1}


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = RunLog(tmp_path, Processes(), start_step=0, tensorboard=True)
    log.scalars(1, {"loss": 1.0})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))
