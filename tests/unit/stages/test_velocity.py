"""Flow matching goes through every stage, and through generation, as eps and v do."""

from pathlib import Path

import pytest
import torch

from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.errors import PromptError
from medcodi.generation import GenerationConfig, edit, generate
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.config import tiny_config
from medcodi.stages import build_stage
from medcodi.trust.privacy.attacks.membership import latents_of, losses_of_latents
from tests.unit.stages.batches import drawn, phantom_batch

SCHEDULE = NoiseScheduleConfig(prediction_type="velocity", shift=3.0)
REPORT = {"report": "Large left effusion."}


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    built = tiny_model(schedule=SCHEDULE, generation=GenerationConfig(sampler="euler", num_inference_steps=3))
    built.trained_stages = ("autoencode", "align", "diffuse")
    return built


def test_every_stage_that_draws_timesteps_trains_on_velocities(model: MedCoDi) -> None:
    batch = phantom_batch(0, 1, 2, 3)
    for name, options in (("diffuse", {"min_snr_gamma": 5.0, "tower_weight": 0.5}), ("join", {"min_snr_gamma": 5.0})):
        loss = build_stage(name, model, options)(batch, drawn(batch)).loss
        loss.backward()
        assert torch.isfinite(loss) and loss > 0
    # One step of a guided teacher of scale 1 is the student's own: the steps are Euler's.
    stage = build_stage("distil", model, {"steps": 4, "substeps": 1, "guidance_scale": 1.0})
    assert float(stage(batch, drawn(batch)).loss.detach()) < 1e-8


def test_it_generates_edits_and_keeps_its_schedule(model: MedCoDi, tmp_path: Path) -> None:
    model.requires_grad_(False)
    euler, again, dpm = (
        generate(REPORT, ["frontal"], model=model, sampler=sampler).images["frontal"]
        for sampler in ("euler", None, "dpm++")
    )
    assert (euler == again).all() and (euler != dpm).any()
    student = generate(REPORT, ["frontal"], model=model, preset="interactive")
    assert student.provenance["settings"]["sampler"] == "euler"
    edited = edit({"frontal": euler, **REPORT}, "No effusion.", ["frontal"], model=model, strength=1.0)
    assert edited.images["frontal"].shape == euler.shape
    loaded = MedCoDi.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert loaded.config.schedule == SCHEDULE and loaded.identity() == model.identity()


def test_the_audits_loss_is_that_of_the_velocity(model: MedCoDi) -> None:
    latents = latents_of(model, "report", ["Large left effusion.", "Normal."])
    null = model.null_context(model.config.modalities, 2)
    losses = losses_of_latents(model, "report", latents, [null], ["a", "b"], [0.2, 0.8], noises=2, seed=0)
    assert losses.shape == (1, 2, 2) and (losses > 0).all()


def test_a_sampler_of_noise_is_refused_for_a_request_and_for_a_model(model: MedCoDi) -> None:
    for settings in ({"sampler": "ddim"}, {"preset": "reference"}):
        with pytest.raises(PromptError, match="sampler euler"):
            generate(REPORT, ["frontal"], model=model, **settings)
    with pytest.raises(ValueError, match="generation: .*sampler ddim for a model that predicts velocity"):
        tiny_config(schedule=SCHEDULE)
