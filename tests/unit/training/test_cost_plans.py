"""The plan of a run: ZeRO stages, micro-batch, time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medcodi.app.cli import main
from medcodi.errors import ConfigError
from medcodi.training.cost import ADAM_BYTES, GIB, Hardware, estimate, recommend

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
