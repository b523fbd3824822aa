"""Reports that are longer than the networks read are in the log and on the run's page."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medcodi.distributed import Ranks
from medcodi.training.monitoring.summary import page, read_run
from medcodi.training.monitoring.trackers import RunLog
from medcodi.training.monitoring.truncation import TruncationObserver
from tests.unit.training.monitoring.phantoms import settings

REPORTS = ["No effusion.", "No effusion. " * 200, "", "Clear lungs. " * 200]


class Reports:
    """Studies of which only the report is read."""

    name = "reports"

    def __len__(self) -> int:
        return len(REPORTS)

    def report(self, index: int) -> str:
        return REPORTS[index]


def watched(model: Any, root: Path, start_step: int) -> RunLog:
    config = settings("diffuse", tracking={"tensorboard": False})
    run: Any = SimpleNamespace(
        ranks=Ranks(),
        studies=Reports(),
        start_step=start_step,
        engine=SimpleNamespace(stage=SimpleNamespace(model=model)),
    )
    log = RunLog(root, Ranks(), config, start_step=start_step)
    TruncationObserver(run, log).on_start()
    return log


def test_they_are_counted_once_in_the_log_and_on_the_page(model: Any, tmp_path: Path) -> None:
    log = watched(model, tmp_path, 0)
    log.scalars(1, {"loss": 1.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    tower, autoencoder = lines[0]["alerts"]
    assert lines[0]["step"] == 0
    length = model.config.prompt_encoders.text.context_length
    assert (
        tower
        == f"2 of the first 3 reports are longer than the {length} tokens that the text tower reads: their ends are not learnt."
    )
    assert "the report autoencoder reads" in autoencoder
    assert tower in page([read_run(tmp_path)])
    # A run that resumes has logged it already.
    watched(model, tmp_path, 1).close()
    assert (tmp_path / "log.jsonl").read_text().count("the text tower reads") == 1
