"""The plan of a run: ZeRO stages, micro-batch, time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medcodi.app.cli import main
from medcodi.config import load
from medcodi.errors import ConfigError
from medcodi.training.config import TrainConfig
from medcodi.training.cost import (
    ADAM_BYTES,
    GIB,
    MIMIC_STUDIES,
    Hardware,
    bytes_sent,
    data_studies,
    estimate,
    recommend,
)

from .costs import cost_of, run


def test_zero_stages_divide_what_they_say_they_divide() -> None:
    plan = estimate(run("diffuse", **{"batch.global_size": 16}), Hardware(gpus=4, gpu_memory=8), cost_of("diffuse"))
    trained, zero = plan.cost.trained, plan.plans
    assert [row.optimizer for row in zero] == [ADAM_BYTES * trained] + [ADAM_BYTES * trained / 4] * 3
    assert [row.gradients for row in zero] == [4 * trained] * 2 + [trained] * 2
    assert zero[3].weights < zero[2].weights and zero[3].average == trained
    assert all(16 // 4 % row.micro_size == 0 for row in zero)


def test_the_recommendation_fits_and_talks_least() -> None:
    plan = estimate(run("join", **{"batch.global_size": 8}), Hardware(gpus=2, gpu_memory=40), cost_of("join"))
    assert plan.best is plan.plans[0]  # a tiny model fits everywhere: no partitioning
    assert plan.best.peak(plan.best.micro_size) <= plan.hardware.usable
    smaller = [
        replace(plan.plans[0], micro_size=0),
        replace(plan.plans[1], micro_size=2),
        replace(plan.plans[2], micro_size=4),
    ]
    assert recommend(smaller, 4) is smaller[2]
    assert recommend([smaller[0]], 4) is None


def test_what_is_sent_follows_from_what_is_partitioned() -> None:
    ring = 4 * 1000 * 3 / 4
    assert [bytes_sent(1000, 4, stage) for stage in range(4)] == [2 * ring, 2 * ring, 2 * ring, 3 * ring]
    assert [bytes_sent(1000, 4, stage, accumulated=5) for stage in range(4)] == [
        2 * ring,
        2 * ring,
        6 * ring,
        15 * ring,
    ]
    assert bytes_sent(1000, 1, 3, accumulated=5) == 0.0


def test_sending_takes_time_on_top_of_computation() -> None:
    config = run("diffuse", **{"batch.global_size": 8})
    slow, fast = (estimate(config, Hardware(gpus=2, bandwidth=each), cost_of("diffuse")) for each in (10, 20))
    assert slow.best is not None and slow.communication == slow.best.sent / 10e9 == 2 * fast.communication > 0
    seconds = slow.steps * (slow.computation + slow.communication)
    assert slow.gpu_hours == pytest.approx(2 * seconds / 3600) and slow.gpu_hours > fast.gpu_hours
    assert estimate(config, Hardware(gpus=1), cost_of("diffuse")).communication == 0.0


def test_no_room_is_said() -> None:
    plan = estimate(run("diffuse", **{"batch.global_size": 8}), Hardware(gpus=8, gpu_memory=2.001), cost_of("diffuse"))
    assert plan.best is None and all(row.micro_size == 0 for row in plan.plans)
    assert plan.hardware.usable < GIB


def test_time_follows_steps_batch_and_speed() -> None:
    fast, slow = Hardware(gpus=1, peak_tflops=100, mfu=0.5), Hardware(gpus=1, peak_tflops=200, mfu=0.25)
    one = estimate(run("align", steps=100, **{"batch.global_size": 8}), fast, cost_of("align"))
    other = estimate(run("align", steps=300, **{"batch.global_size": 16}), slow, cost_of("align"))
    assert other.gpu_hours == pytest.approx(6 * one.gpu_hours)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"32 over 5 GPUs[\s\S]*batch.global_size=35"):
        estimate(run("autoencode"), Hardware(gpus=5))


def test_the_command_prints_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--estimate", "--config", "configs/train/diffuse.yaml", "--gpus", "4", "--gpu-memory", "24"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "init=null", "model=configs/models/tiny.yaml"])
    printed = capsys.readouterr().out
    assert stop.value.code in (0, None)
    assert "Recommended: engine.name=deepspeed engine.zero_stage=0" in printed and "GPU-hours" in printed


def test_steps_follow_studies_and_passes_and_the_price_the_hours() -> None:
    hardware, align = Hardware(gpus=1, price=2.0), run("align", **{"batch.global_size": 8})
    plan = estimate(align, hardware, cost_of("align"), studies=100, epochs=3)
    assert plan.steps == 38 and plan.epochs == pytest.approx(3.04) and plan.price == 2.0 * plan.gpu_hours
    assert estimate(align, Hardware(gpus=1), cost_of("align")).price is None


def test_studies_are_those_of_the_data_where_it_says_how_many() -> None:
    phantoms = run("diffuse")
    assert estimate(phantoms, Hardware(), cost_of("diffuse")).studies == data_studies(phantoms) == 10_000
    absent = load(TrainConfig, "medcodi-m/2-align", ["init=null", "model=medcodi-m"])
    assert data_studies(absent) is None
    assert estimate(absent, Hardware(), cost_of("align")).studies == MIMIC_STUDIES


def test_all_stages_of_a_folder_are_planned_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Models that earlier stages would write are not there: the recipe of the first is planned with."""
    words = ["--gpus", "4", "--card", "l40s", "--studies", "1000", "--epochs", "2", "--price", "1000000"]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--estimate", "--config", "tiny", *words])
    printed = capsys.readouterr().out
    assert stop.value.code in (0, None) and "tiny on 4 GPUs of 45 GiB and 362 TFLOP/s" in printed
    rows = [line.split() for line in printed.splitlines() if " x " in line and line.startswith(" ")]
    assert [row[0] for row in rows] == ["autoencode", "align", "diffuse", "join"]
    assert all(row[1] == "0" and row[6:8] == ["500", "2.0"] for row in rows)  # 500 steps: 2 x 1,000 / 4
    assert "costs" in printed and "1,000 studies" in printed and "GPU-hours" in printed


def test_an_unknown_card_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--estimate", "--config", "tiny", "--card", "h10"])
    assert stop.value.code and "did you mean 'h100'" in capsys.readouterr().err
