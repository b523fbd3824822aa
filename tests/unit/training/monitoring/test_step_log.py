"""What is logged of the steps: means, updates, utilisation, alerts; unfinished means survive a resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medcodi.data.loading import collate
from medcodi.distributed import Ranks
from medcodi.model import STAGES, tiny_model
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.training.config import TrainConfig
from medcodi.training.engine import PlainEngine, StepResult
from medcodi.training.monitoring.observer import StepReport
from medcodi.training.monitoring.step_log import StepLog, UpdateSize, relative_updates
from medcodi.training.monitoring.trackers import RunLog
from tests.unit.training.toy import ToyStage, toy_config

from .phantoms import DATASET, SAMPLES, settings


def trained(tmp_path: Path, stage: Any, config: TrainConfig, steps: int = 4) -> list[dict[str, Any]]:
    """Steps of a real engine with everything logged; the log's lines."""
    ranks = Ranks()
    engine = PlainEngine(stage, config, ranks)
    log = RunLog(tmp_path, ranks, config, start_step=0)
    run: Any = SimpleNamespace(config=config, ranks=ranks, engine=engine, start_step=0)
    step_log = StepLog(run, log)
    step_log.on_start()
    for step in range(steps):
        batch = collate([DATASET[sample] for sample in SAMPLES], SAMPLES, 32)
        result = engine.run_step([batch], [StepRandomness(seed=0, step=step, samples=SAMPLES)])
        step_log.on_step(StepReport(step + 1, result, waited=0.01, seconds=0.1))
    log.close()
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


def test_a_healthy_run_is_not_called_out_and_a_dead_part_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"targets": ["report"]}
    tracking = {"log_every": 1, "tensorboard": False, "mfu_after": 0, "peak_tflops": 0.5, "alerts": {"patience": 3}}
    changes: dict[str, Any] = {"stage": {"name": "diffuse", "options": options}, "optimizer": {"lr": 1e-3}}
    fresh = tiny_model(seed=0)
    fresh.trained_stages = STAGES
    lines = trained(tmp_path, build_stage("diffuse", fresh, options), settings("diffuse", tracking=tracking, **changes))
    assert not any("alerts" in line for line in lines) and len(lines) == 4
    line, timing = lines[-1], lines[-1]["timing"]
    assert 0 < line["moved/report"] < 1 and 0 <= line["clipped"] <= 1 and timing["cpu_peak_gib"] > 0
    expected = timing["studies_per_second"] * timing["gflops_per_study"] / 1e3 / timing["peak_tflops"]
    assert timing["mfu"] == pytest.approx(expected, rel=1e-3) and "MFU" in capsys.readouterr().err

    stage = build_stage("diffuse", fresh, options)
    for parameter in stage.parameters():
        if parameter.requires_grad:
            parameter.register_hook(torch.zeros_like)  # what a part gets that nothing reaches
    dead = trained(tmp_path, stage, settings("diffuse", tracking={**tracking, "mfu": False}, **changes))
    (signs,) = [line["alerts"] for line in dead if "alerts" in line]
    assert signs[0].startswith("dead modality: the weights of report do not change") and len(signs) == 1
    assert "LOOK: dead modality" in capsys.readouterr().err


def toy_log(root: Path, start_step: int = 0) -> StepLog:
    config = toy_config(tracking={"log_every": 4, "tensorboard": False, "mfu": False})
    run: Any = SimpleNamespace(
        config=config, ranks=Ranks(), engine=PlainEngine(ToyStage(), config, Ranks()), start_step=start_step
    )
    return StepLog(run, RunLog(root, Ranks(), config, start_step=start_step))


def report(step: int, loss: float, norm: float, skipped: bool = False) -> StepReport:
    result = StepResult([torch.tensor(loss)] * 2, [{"a": torch.tensor(0.1 * step)}] * 2, norm, 0.01, skipped)
    return StepReport(step, result, waited=0.1, seconds=1.0)


STEPS = [report(1, 0.1, 0.2), report(2, 0.3, 0.7), report(3, 99.0, 9.0, skipped=True), report(4, 0.5, 0.6)]


def test_a_line_holds_means_since_the_last_one_without_skipped_steps(tmp_path: Path) -> None:
    step_log = toy_log(tmp_path)
    step_log.on_start()
    for step in STEPS:
        step_log.on_step(step)
    (line,) = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert line["step"] == 4 and line["lr"] == 0.01 and line["loss"] == pytest.approx(0.3)
    assert line["grad_norm"] == pytest.approx(0.5) and line["clipped"] == pytest.approx(2 / 3)  # toy's grad_clip is 0.5
    assert line["a"] == pytest.approx(0.7 / 3) and line["moved/frontal"] == 0.0  # no step was taken for real
    timing = line["timing"]
    assert timing["seconds_per_step"] == 1.0 and timing["data_wait"] == 0.1 and timing["studies_per_second"] == 4.0


def test_a_resumed_line_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    lines = []
    for name, stop in (("whole", 4), ("resumed", 2)):
        (tmp_path / name).mkdir()
        first = toy_log(tmp_path / name)
        first.on_start()
        for step in STEPS[:stop]:
            first.on_step(step)
        if stop < 4:
            second = toy_log(tmp_path / name, start_step=stop)
            second.load_state_dict([json.loads(json.dumps(first.state_dict()))], 1.0)
            second.on_start()
            for step in STEPS[stop:]:
                second.on_step(step)
        (line,) = [json.loads(text) for text in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        lines.append({key: value for key, value in line.items() if key != "timing"})
    assert lines[0] == lines[1]


def test_the_size_of_an_update_is_relative_to_the_weights() -> None:
    stage = ToyStage()
    engine: Any = PlainEngine(stage, toy_config(), Ranks())
    size = UpdateSize(engine)
    assert size.measure() == {}  # nothing was remembered
    size.remember()
    with torch.no_grad():
        for name, parameter in stage.model.heads["frontal"].named_parameters():
            parameter.mul_(1.1 if parameter.ndim == 1 else 5.0)  # matrices are not watched
            assert name
    pairs = size.measure()
    moved = relative_updates({name: float(pair[0] / pair[1]) for name, pair in pairs.items()} | {"loss": 4.0})
    assert moved["moved/frontal"] == pytest.approx(0.1, rel=1e-4)
    assert moved["moved/lateral"] == 0.0 and moved["loss"] == 4.0
