"""The cost of a stage, counted on fake tensors, is that of real steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medcodi.config import load
from medcodi.data.loading import DataConfig, collate
from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.model import ModelConfig, tiny_config, tiny_model
from medcodi.model.generation_config import GenerationConfig
from medcodi.networks.environment import EnvironmentConfig
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.stages.dry_run import Operations
from medcodi.training.config import TrainConfig
from medcodi.training.cost import stage_cost, study_flops

from .costs import STAGES, cost_of, run


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


@pytest.mark.parametrize("stage", ["autoencode", "align", "diffuse", "distil"])
def test_counted_activations_are_those_of_a_real_step(stage: str) -> None:
    cost = cost_of(stage)
    eight, trained = kept_by_autograd(stage, 8)
    assert cost.trained == trained
    counted = cost.fixed_activations + 8 * cost.study_activations
    assert counted == pytest.approx(eight, rel=0.15)  # reports of a real batch are shorter than the longest


def test_a_cache_leaves_encoding_out_of_the_time_and_of_the_peak() -> None:
    fresh, cached = cost_of("diffuse"), cost_of("diffuse", cache="somewhere")
    assert cached.trained == fresh.trained
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in tiny_model().components().items()}
    left_out = sum(size for name, size in parts.items() if not name.startswith("denoiser"))
    assert (
        fresh.frozen - cached.frozen == left_out
    )  # autoencoders, prompt encoders, and environments, which diffuse lacks
    assert cached.study_transient == 0 < fresh.study_transient and cached.study_flops < fresh.study_flops


def test_operations_of_one_tower_are_a_part_of_all_towers() -> None:
    """Towers that ``kinds`` leaves out run without gradient, where they are all that a pass has too."""
    described = load(ModelConfig, "configs/models/tiny-record.yaml")
    every, table, text = (
        study_flops(run("align", **options), described)
        for options in ({}, {"stage.options.kinds": "[table]"}, {"stage.options.kinds": "[text]"})
    )
    assert 0 < table < text < every


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


@pytest.mark.parametrize("recipe", ["demo/1-autoencode-crops", "demo/4-align", "demo/6-diffuse-report", "demo/7-join"])
def test_every_stage_is_counted_with_a_recipe_of_the_demo(recipe: str) -> None:
    """Also where velocities are predicted, whose scheduler reads a value of a tensor: a run that is not counted logs no MFU."""
    config = load(TrainConfig, f"configs/train/{recipe}.yaml")
    model = tiny_config(
        image_size=64,
        environment=config.environment or EnvironmentConfig(),
        schedule=NoiseScheduleConfig(prediction_type="velocity", shift=3.0),
        generation=GenerationConfig(sampler="euler", guidance_scale=2.0),
    )
    assert study_flops(config, model) > 0


def test_denoisers_in_lockstep_are_counted_with_their_connectors() -> None:
    hearing = tiny_config(environment=EnvironmentConfig(kind="features"))
    cost, deaf = stage_cost(run("join", cache="somewhere"), hearing), cost_of("diffuse", cache="somewhere")
    connectors = tiny_model(environment=hearing.environment).environment
    assert cost.trained == sum(parameter.numel() for parameter in connectors.parameters())
    # Three denoisers in `diffuse`, 9 in 4 steps here; backwards without gradients of their weights, forwards with connectors.
    assert 0.4 * deaf.study_flops < cost.study_flops < 0.9 * deaf.study_flops


def test_activations_are_halved_where_autocast_halves_them() -> None:
    full, half = cost_of("diffuse"), cost_of("diffuse", precision="bf16")
    assert 0.4 * full.study_activations < half.study_activations < full.study_activations
    assert half.fixed_activations > full.fixed_activations  # weights once more, cast


def test_a_gpu_keeps_norms_in_float32() -> None:
    """Under autocast on a GPU, norms compute in float32; in float32 the kind of device makes no difference."""
    on_cpu = stage_cost(run("diffuse", precision="bf16"), device="cpu")
    on_gpu = cost_of("diffuse", precision="bf16")
    assert on_cpu.study_activations < on_gpu.study_activations < cost_of("diffuse").study_activations
    assert on_cpu.study_flops == on_gpu.study_flops and on_cpu.fixed_activations == on_gpu.fixed_activations
    assert stage_cost(run("diffuse"), device="cpu") == cost_of("diffuse")


def test_a_model_of_velocities_costs_what_one_of_noise_does() -> None:
    path = NoiseScheduleConfig(prediction_type="velocity", shift=3.0)
    straight = replace(tiny_config(), schedule=path, generation=GenerationConfig(sampler="euler"))
    assert stage_cost(run("diffuse"), straight) == stage_cost(run("diffuse"), tiny_config())
