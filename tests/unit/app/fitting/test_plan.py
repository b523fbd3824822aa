"""The size of a fitted model, and the config of each stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medcodi.app.fitting.inputs import FitData
from medcodi.app.fitting.job import Fit
from medcodi.app.fitting.plan import (
    SHARES,
    SIZES,
    STAGES,
    check_size,
    choose_size,
    default_minutes,
    spent_minutes,
    stage_config,
)
from medcodi.errors import TrainingError
from medcodi.training.config import TrainConfig

DATA = FitData(
    path="mine",
    source="csv",
    table="mine.csv",
    counts={"train": 40, "val": 5, "test": 9},
    modalities={"frontal": 54, "report": 50},
    joined={"train": 37, "val": 5, "test": 8},
    num_labelled=40,
    image_size=None,
    columns=("id", "film", "words"),
)


@pytest.mark.parametrize(("num_studies", "size"), [(20, "tiny"), (499, "tiny"), (500, "demo"), (300_000, "demo")])
def test_the_size_is_chosen_by_the_data_and_the_time_by_the_machine(num_studies: int, size: str) -> None:
    chosen, why = choose_size(num_studies)
    assert chosen == size and f"{num_studies:,} training studies" in why
    minutes, words = default_minutes(size, 0.0)
    assert minutes == {"tiny": 5, "demo": 480}[size] and "without a GPU" in words
    minutes, words = default_minutes(size, 80.0)
    assert minutes == {"tiny": 5, "demo": None}[size] and "GPU of 80 GiB" in words


def test_an_unknown_size_names_the_nearest() -> None:
    with pytest.raises(TrainingError, match="did you mean 'tiny'"):
        check_size("tyni")
    with pytest.raises(TrainingError, match="medcodi-m does not fit on one device.*configs/train/medcodi-m"):
        check_size("medcodi-m")


@pytest.mark.parametrize("size", SIZES)
def test_every_stage_has_a_config_on_the_data_alone(size: str, tmp_path: Path) -> None:
    init: Path | None = None
    for stage in STAGES:
        config = stage_config(stage, size, DATA, "runs/mine/data", tmp_path, init, minutes=None)
        assert isinstance(config, TrainConfig) and config.stage.name == stage
        assert config.data.path == "runs/mine/data" and config.batch.global_size <= 10 and config.engine.name == "auto"
        assert config.validation is None or (config.validation.path, config.validation.split) == (
            "runs/mine/data",
            "val",
        )
        assert config.init == (None if init is None else str(init))
        init = tmp_path / "stages" / stage / "model"


def test_time_is_shared_and_what_was_spent_counts(tmp_path: Path) -> None:
    config = stage_config("diffuse", "tiny", DATA, "data", tmp_path, Path("model"), minutes=100)
    assert config.max_minutes == pytest.approx(100 * SHARES["diffuse"]) and sum(SHARES.values()) < 1
    assert config.optimizer.schedule == "constant"

    # Two lines of a run that was killed: 20 steps of 6 s, 10 of 12.
    log = tmp_path / "stages" / "diffuse" / "log.jsonl"
    log.parent.mkdir(parents=True)
    lines = [
        {"step": 20, "loss": 2.0, "timing": {"seconds_per_step": 6.0}},
        {"step": 20, "validation/loss": 1.0},
        {"step": 30, "loss": 1.5, "timing": {"seconds_per_step": 12.0}},
    ]
    log.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 40, "timi')
    assert spent_minutes(log.parent) == pytest.approx(4.0)
    again = stage_config("diffuse", "tiny", DATA, "data", tmp_path, Path("model"), minutes=100)
    assert again.max_minutes == pytest.approx(26.0) and again.identity() == config.identity()


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    fit = Fit(data=DATA, size="tiny", out=tmp_path, minutes=3)
    assert list(fit.parts()) == ["data", *STAGES, "model", "classifier", "evaluation"]
    assert (
        "left out: lateral, which no study has (columns: id, film, words; options.columns.lateral=COLUMN names one)"
        in fit.description("as given", "")
    )
    assert fit.evaluation_values()["directions"] == [
        "report->frontal", "frontal->report", "->frontal+report"
    ]  # fmt: skip

    # Without labels there are no finding metrics; without held-out studies no evaluation.
    plain = replace(fit, data=replace(DATA, num_labelled=3))
    values = plain.evaluation_values()
    assert "findings" not in values["metrics"] and "3 training studies have labels" in values["notes"]["findings"]
    assert "classifier" not in plain.parts() and any("finding metrics" in line for line in plain.description("", ""))
    few = replace(fit, data=replace(DATA, joined={"train": 37, "test": 2}))
    assert "evaluation" not in few.parts() and any(
        "the evaluation, because 2" in line for line in few.description("", "")
    )
