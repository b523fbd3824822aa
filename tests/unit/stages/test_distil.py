"""Stage distil: students start as the denoisers, learn the guided steps, and generate alone."""

from pathlib import Path

import pytest
import torch

from medcodi.data.loading import Batch
from medcodi.errors import ConfigError, PromptError
from medcodi.generation import GenerationConfig, generate
from medcodi.model import MedCoDi, tiny_model
from medcodi.stages import build_stage
from tests.unit.stages.batches import assert_rows_are_independent, drawn, moved_by_training, phantom_batch

REPORT = {"report": "Large left effusion."}


@pytest.fixture()
def model() -> MedCoDi:
    built = tiny_model(seed=0)
    built.trained_stages = ("autoencode", "align", "diffuse")
    return built


@pytest.fixture(scope="module")
def batch() -> Batch:
    return phantom_batch(0, 1, 2, 3)


def test_a_fresh_student_is_its_denoiser(model: MedCoDi, batch: Batch) -> None:
    """One guided step of scale 1 is the denoiser's own, so there is nothing to learn."""
    stage = build_stage("distil", model, {"steps": 4, "substeps": 1, "guidance_scale": 1.0})
    assert float(stage(batch, drawn(batch)).loss.detach()) < 1e-8


def test_it_trains_students_only_and_towards_the_teacher(model: MedCoDi, batch: Batch) -> None:
    stage = build_stage("distil", model, {"steps": 2, "substeps": 2, "rank": 4, "targets": ["report"]})
    moved = moved_by_training(stage, batch)
    assert moved and all(name.startswith("students.report.") for name in moved)

    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        loss = stage(batch, drawn(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_of_a_row_depends_on_its_own_key_only(model: MedCoDi) -> None:
    assert_rows_are_independent(build_stage("distil", model, {"steps": 2, "substeps": 2}).eval())


def test_students_generate_every_direction_and_are_stored_beside_the_model(model: MedCoDi, tmp_path: Path) -> None:
    """A model without students has the identity, files and samples that it had."""
    model.requires_grad_(False)  # or attention takes another path, which rounds otherwise
    before, plain = model.identity(), generate(REPORT, ["frontal"], model=model).images["frontal"]
    build_stage("distil", model, {"steps": 2, "substeps": 2, "rank": 4})
    with torch.no_grad():
        for name, parameter in model.students.named_parameters():
            if ".up." in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    loaded = MedCoDi.from_pretrained(model.save_pretrained(tmp_path / "model"), lazy=True)
    assert loaded.identity() == model.identity() != before
    assert (generate(REPORT, ["frontal"], model=model).images["frontal"] == plain).all()

    for prompts, targets in (({}, ["frontal", "report"]), (REPORT, ["frontal", "lateral"]), (REPORT, ["lateral"])):
        out = generate(prompts, targets, model=loaded, preset="interactive")
        again = generate(prompts, targets, model=model, preset="interactive")
        assert out.provenance["settings"]["student"] and out.provenance["settings"]["num_inference_steps"] == 2
        for name, image in out.images.items():
            assert (image == again.images[name]).all()
    own = generate(REPORT, ["lateral"], model=loaded, sampler="ddim", num_inference_steps=2, guidance_scale=1.0)
    assert (own.images["lateral"] != out.images["lateral"]).any() and "student" not in own.provenance["settings"]
    assert "environment_frontal" in loaded.pending  # a chain of students hears nobody


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"num_inference_steps": 8}, "trained for 2 alone"),
        ({"guidance_scale": 3.0}, "guidance 2 built in"),
        ({"order": "joint"}, "trained for chained alone"),
        ({"sampler": "dpm++"}, "trained for ddim alone"),
    ],
)
def test_what_students_were_not_trained_for_is_refused(model: MedCoDi, given: dict, says: str) -> None:
    config = GenerationConfig(preset="interactive", **given)
    with pytest.raises(PromptError, match="has no students"):
        config.resolved(model)
    build_stage("distil", model, {"steps": 2})
    with pytest.raises(PromptError, match=says):
        config.resolved(model)


def test_steps_that_the_sampler_does_not_reach_are_refused(model: MedCoDi) -> None:
    with pytest.raises(ConfigError, match="steps is 3, which does not divide"):
        build_stage("distil", model, {"steps": 3})
