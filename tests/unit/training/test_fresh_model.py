"""A trained model extended by a record, beside denoisers that hear features: what it keeps, what is fresh, and who hears whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from medcodi.config import load, to_dict
from medcodi.data.loading import DataConfig, collate
from medcodi.data.sources.phantom import PhantomDataset
from medcodi.errors import CheckpointError
from medcodi.generation import generate
from medcodi.model import MedCoDi, ModelConfig, tiny_config, tiny_model
from medcodi.randomness import StepRandomness
from medcodi.record import FieldConfig
from medcodi.stages import build_stage
from medcodi.training.config import TrainConfig
from medcodi.training.fresh_model import extended_model, images_of, new_model

FEATURES = replace(tiny_config().environment, kind="features")
RECIPE = replace(load(ModelConfig, "models/tiny-record"), environment=FEATURES)
DATASET = PhantomDataset(8, image_size=32, version=2, studies_per_patient=2)
RECORDS = [DATASET.record(index) or {} for index in range(8)]


@pytest.fixture(scope="module")
def trained() -> MedCoDi:
    """Three modalities; what starts at zero is not zero, or nothing would be heard through it."""
    model = tiny_model(seed=0, environment=FEATURES)
    model.trained_stages = ("autoencode", "align", "diffuse", "join")
    return randomised(model)


@pytest.fixture(scope="module")
def folder(trained: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.save_pretrained(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def extended(folder: Path) -> MedCoDi:
    return extended_model(folder, RECIPE, RECORDS, seed=3)


def randomised(model: MedCoDi) -> MedCoDi:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_every_weight_is_kept_and_what_is_fresh_is_the_records(trained, extended, folder):
    before, after = trained.state_dict(), extended.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    fresh = set(after) - set(before)
    assert fresh and all("record" in name or "table" in name for name in fresh)
    assert extended.trained_stages == trained.trained_stages and extended.config.modalities[-1] == "record"
    # Numbers are normalised by the records, in the tower as in the autoencoder; the same seed gives the same weights.
    ages = [record["age"] for record in RECORDS]
    for tokens in (extended.prompt_encoders.record_tower.tokens, extended.autoencoders["table"].tokens):
        assert float(tokens.mean[0]) == pytest.approx(np.mean(ages), rel=1e-5)
    again = extended_model(folder, RECIPE, RECORDS, seed=3).state_dict()
    assert all(torch.equal(again[name], value) for name, value in after.items())


def test_without_the_record_it_generates_what_the_trained_model_does(trained, extended):
    request = {
        "prompts": {"report": "Large left pleural effusion."},
        "targets": ["frontal", "lateral"],
        "order": "joint",
    }
    before, after = generate(**request, model=trained), generate(**request, model=extended)
    assert all(np.array_equal(before.images[name], after.images[name]) for name in before.images)


@torch.no_grad()
@pytest.mark.parametrize("targets", [("frontal", "record"), ("report", "record"), RECIPE.modalities])
def test_the_record_hears_its_fellows_and_is_heard(extended, targets):
    model = randomised(extended)
    latents = {name: torch.randn(2, *model.latent_shape(name)) for name in targets}
    t, prompts = torch.tensor([400, 400]), model.null_context(["report"], 2)
    together, apart = model.denoise(latents, t, prompts), model.denoise(latents, t, prompts, heard={})
    for moved in targets:
        changed = {**latents, moved: latents[moved] + 1}
        heard, unheard = model.denoise(changed, t, prompts), model.denoise(changed, t, prompts, heard={})
        for name in set(targets) - {moved}:
            assert (heard[name] - together[name]).abs().max() > 1e-5, f"{name} does not hear {moved}"
            assert torch.equal(unheard[name], apart[name])


def test_join_trains_the_connectors_to_and_of_the_record(folder):
    model = extended_model(folder, RECIPE, RECORDS)
    stage = build_stage("join", model)
    stage.target_sets = [("frontal", "report", "record")]
    batch = collate([DATASET[index] for index in range(4)], range(4), 32)
    randomised(model)
    stage(batch, StepRandomness(seed=0, step=0, samples=batch.samples)).loss.backward()
    own = model.environment["record"].blocks
    of_others = [model.environment[name].blocks for name in ("frontal", "report")]
    assert any(block.to_q.weight.grad.abs().max() > 0 for block in own)
    for blocks in of_others:
        assert any(
            block.fellows["record"].to_keys_values.weight.grad.abs().max() > 0
            for block in blocks
            if "record" in block.fellows
        )


def test_align_trains_the_tower_of_one_kind_alone(folder):
    model = extended_model(folder, RECIPE, RECORDS)
    stage = build_stage("align", model, {"kinds": ["table"]})
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    assert names and all(name.startswith("prompt_encoders.record_tower.") for name in names)
    batch = collate([DATASET[index] for index in range(4)], range(4), 32)
    output = stage(batch, StepRandomness(seed=0, step=0, samples=batch.samples))
    output.loss.backward()
    assert {name for name in output.logs if name.endswith("/loss")} == {
        f"{name}-record/loss" for name in ("frontal", "lateral", "report")
    }
    assert model.prompt_encoders.record_tower.projection.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": ("frontal", "record")}, "has the modality lateral"),
        (
            {"image_denoiser": replace(RECIPE.image_denoiser, base_channels=32)},
            "image_denoiser.base_channels is 32, and 16 in",
        ),
        ({"image_size": 64}, "image_size is 64, and 32"),
    ],
)
def test_a_recipe_of_another_model_is_refused(folder, changes, message):
    with pytest.raises(CheckpointError, match=message):
        extended_model(folder, replace(RECIPE, **changes), RECORDS)


def test_a_record_that_is_there_already_stays_as_it_is(extended, tmp_path):
    folder = extended.save_pretrained(tmp_path / "model")
    fields = {**RECIPE.record.fields, "troponin": FieldConfig(low=1, high=2)}
    with pytest.raises(CheckpointError, match="has a record already"):
        extended_model(folder, replace(RECIPE, record=replace(RECIPE.record, fields=fields)), RECORDS)


def test_the_recipe_of_the_demo_with_a_record_extends_the_shipped_demo():
    trained = MedCoDi.from_pretrained("demo", lazy=True).config
    recipe = load(ModelConfig, "models/demo-record")
    same = {"name": trained.name, "modalities": trained.modalities, "record": None, "vocab_size": trained.vocab_size}
    assert replace(recipe, **same, generation=trained.generation) == trained


def test_a_linear_map_of_patches_is_fitted_to_the_first_studies_films(tmp_path):
    recipe = replace(tiny_config(), image_autoencoder=replace(tiny_config().image_autoencoder, linear=True))
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(to_dict(recipe)))
    dataset = DataConfig(source="phantom", num_studies=3, image_size=32).build()
    model = new_model(load(TrainConfig, "train/tiny/autoencode", [f"model={tmp_path}/model.yaml"]), dataset)
    films = images_of(dataset)
    assert films.shape == (6, 1, 32, 32)
    latents = model.autoencoders["image"].encode(films)[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.std(1, correction=0), torch.ones(len(latents)), atol=1e-3, rtol=0)
