"""Where a run is logged: log.jsonl, TensorBoard, the screen; extras that are not installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcodi.distributed import Ranks
from medcodi.errors import MissingExtraError
from medcodi.training.monitoring.trackers import RunLog, check_trackers
from tests.unit.training.toy import toy_config


def log(root: Path, start_step: int = 0, **tracking: Any) -> RunLog:
    return RunLog(root, Ranks(), toy_config(tracking={"tensorboard": False, **tracking}), start_step=start_step)


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    first = log(tmp_path)
    for step in (1, 2, 3):
        first.scalars(step, {"loss": float(step)}, {"seconds_per_step": 0.1})
    first.alerts(3, ["loss spike: a"])
    first.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    again = log(tmp_path, start_step=2)
    again.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2] and again.resumed_lines == lines(tmp_path)
    assert lines(tmp_path)[0]["timing"] == {"seconds_per_step": 0.1}
    log(tmp_path).close()
    assert lines(tmp_path) == []  # a run that begins


def test_tensorboard_has_figures_pictures_texts_and_signs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = log(tmp_path, tensorboard=True)
    for step in (1, 2, 3):
        first.scalars(step, {"loss/frontal/from lateral+report": float(step)}, {"mfu": 0.5})
    first.image(2, "samples", np.zeros((4, 6), dtype=np.float32))
    first.alerts(2, ["loss spike: a"])
    first.close()
    again = log(tmp_path, start_step=2, tensorboard=True)
    again.scalars(3, {"loss/frontal/from lateral+report": 30.0})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss/frontal/from lateral+report")] == [1.0, 2.0, 30.0]
    assert events.Scalars("timing/mfu")[0].value == 0.5 and len(events.Images("samples")) == 1
    assert "alerts/text_summary" in events.Tags()["tensors"]


def test_tensorboard_of_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for values in ([1.0, 2.0, 3.0], [4.0]):  # the second goes on from step 0
        told = log(tmp_path, tensorboard=True)
        for step, value in enumerate(values, start=1):
            told.scalars(step, {"loss": value})
        told.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss")] == [4.0]


def test_a_tracker_that_is_absent_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"medcodi\[tracking\]"):
        log(tmp_path, tensorboard=True)
    with pytest.raises(MissingExtraError, match=r"medcodi\[tracking\]"):
        check_trackers(toy_config(tracking={"tensorboard": True}).tracking)


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    quiet = RunLog(tmp_path, Ranks(rank=1, world_size=2), toy_config(), start_step=0)
    quiet.scalars(1, {"loss": 1.0})
    quiet.close()
    assert list(tmp_path.iterdir()) == []
