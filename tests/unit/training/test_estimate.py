from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from medcodi.app.cli import main
from medcodi.config import load
from medcodi.data.loading import DataConfig, collate
from medcodi.errors import ConfigError
from medcodi.model import ModelConfig, tiny_model
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.training.config import TrainConfig
from medcodi.training.cost import Cost, Operations, stage_cost, study_flops
from medcodi.training.estimate import ADAM_BYTES, GIB, Hardware, estimate, recommend

STAGES = ("autoencode", "align", "diffuse", "join")


def run(stage: str, **changes: object) -> TrainConfig:
    overrides = ["init=null", "model=configs/models/tiny.yaml", "cache=null", "precision=fp32", "data.image_size=32"]
    options = {"autoencode": ["stage.options.crop_size=null"]}.get(stage, [])
    values = [f"{key}={value}" for key, value in changes.items()]
    return load(TrainConfig, f"configs/train/{stage}.yaml", [*overrides, *options, *values])


@cache
def cost_of(stage: str, **changes: object) -> Cost:
    return stage_cost(run(stage, **changes))


def kept_by_autograd(stage_name: str, studies: int) -> tuple[float, int]:
    """Bytes that a real step of the stage keeps for its backward pass, and the parameters that it trains."""
    model = tiny_model()
    model.trained_stages = STAGES
    stage = build_stage(stage_name, model)
    dataset = DataConfig(source="phantom", num_studies=8, image_size=32).build()
    batch = collate([dataset[index] for index in range(studies)], range(studies), 32)
    own = {parameter.untyped_storage().data_ptr() for parameter in stage.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = stage(batch, StepRandomness(seed=0, step=3, samples=batch.samples))
    size = float(sum(storage.nbytes() for storage in kept.values()))
    del output
    return size, sum(parameter.numel() for parameter in stage.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("stage", ["autoencode", "align", "diffuse"])
def test_counted_activations_are_those_of_a_real_step(stage: str) -> None:
    cost = cost_of(stage)
    eight, trained = kept_by_autograd(stage, 8)
    assert cost.trained == trained
    counted = cost.fixed_activations + 8 * cost.study_activations
    assert counted == pytest.approx(eight, rel=0.15)  # reports of a real batch are shorter than the longest


def test_zero_stages_divide_what_they_say_they_divide() -> None:
    plan = estimate(run("diffuse", **{"batch.global_size": 16}), Hardware(gpus=4, gpu_memory=8), cost_of("diffuse"))
    trained, zero = plan.cost.trained, plan.plans
    assert [row.optimizer for row in zero] == [ADAM_BYTES * trained] + [ADAM_BYTES * trained / 4] * 3
    assert [row.gradients for row in zero] == [4 * trained] * 2 + [trained] * 2
    assert zero[3].weights < zero[2].weights and zero[3].average == trained
    assert all(16 // 4 % row.micro_size == 0 for row in zero)


def test_a_cache_leaves_encoding_out_of_the_time_and_of_the_peak() -> None:
    fresh, cached = cost_of("diffuse"), cost_of("diffuse", cache="somewhere")
    assert cached.trained == fresh.trained
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in tiny_model().components().items()}
    left_out = sum(size for name, size in parts.items() if not name.startswith("denoiser"))
    assert (
        fresh.frozen - cached.frozen == left_out
    )  # autoencoders, prompt encoders, and environments, which diffuse lacks
    assert cached.study_transient == 0 < fresh.study_transient and cached.study_flops < fresh.study_flops


def test_operations_are_those_of_an_average_step() -> None:
    """`join` draws two targets or three of three: 9 denoisers in 4 steps; the plan counts them as the running MFU does."""
    cost = cost_of("join", cache="somewhere")
    described = load(ModelConfig, "configs/models/tiny.yaml")
    assert cost.study_flops == study_flops(run("join", cache="somewhere"), described)
    model = tiny_model()
    model.trained_stages = STAGES
    stage = build_stage("join", model)
    passes = stage.dry_run(cached=True)
    assert passes.drawn == 9 / 12
    with Operations() as operations:
        for forward in passes.trained:
            torch.stack([end.float().sum() for end in forward(1) if end.requires_grad]).sum().backward()
    assert cost.study_flops == 0.75 * operations.total > 0


def test_activations_are_halved_where_autocast_halves_them() -> None:
    full, half = cost_of("diffuse"), cost_of("diffuse", precision="bf16")
    assert 0.4 * full.study_activations < half.study_activations < full.study_activations
    assert half.fixed_activations > full.fixed_activations  # weights once more, cast


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


def test_operations_are_those_of_both_passes() -> None:
    a, b = torch.ones(8, 16, requires_grad=True), torch.ones(16, 4)
    with Operations() as counted:
        (a @ b).sum().backward()
    assert counted.total == 2 * (2 * 8 * 16 * 4)  # b is frozen: one product back, not two
