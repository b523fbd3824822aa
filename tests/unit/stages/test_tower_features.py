"""Latents and denoisers held to the image tower: the distance by hand, what it trains, what it leaves as it was, refusals."""

from dataclasses import replace

import pytest
import torch

from medcodi.errors import TrainingError
from medcodi.model import MedCoDi, build_model, tiny_config, tiny_model
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.stages import build_stage
from medcodi.stages.tower_features import TowerFeatures
from tests.unit.stages.batches import assert_rows_are_independent, drawn, moved_by_training, phantom_batch

HELD = {
    "autoencode": {"kinds": ["image"], "tower_weight": 0.5},
    "diffuse": {"targets": ["frontal", "report"], "tower_weight": 0.5},
}


def trained_model(context: str = "tokens") -> MedCoDi:
    built = build_model(replace(tiny_config(), context=context), ["A report."], seed=0)
    built.trained_stages = ("autoencode", "align")
    return built


def test_the_distance_is_one_minus_the_cosine_at_each_position() -> None:
    model = tiny_model(seed=0)
    features = TowerFeatures(2, model)
    width = model.prompt_encoders.embed_dim
    maps, tokens = torch.randn(3, 2, 4, 4), torch.randn(3, 1 + 4, width)
    encoding = PromptEncoding(torch.zeros(3, width), tokens, torch.ones(3, 5, dtype=torch.bool))
    # By hand: four patches, of which each is compared with the mean of 2 x 2 positions of the projected map.
    layer = features.project[0]
    with torch.no_grad():
        projected = torch.einsum("bchw,dc->bdhw", maps, layer.weight[:, :, 0, 0])
        means = projected.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)).flatten(2)  # [B, D, 4]
        cosines = torch.nn.functional.cosine_similarity(means, tokens[:, 1:].transpose(1, 2), dim=1)
        assert torch.allclose(features.distance(maps, encoding), 1 - cosines.mean(1), atol=1e-6)


@pytest.mark.parametrize("name", HELD)
def test_holding_trains_what_the_stage_trains_and_shortens_the_distance(name: str) -> None:
    batch, stage = phantom_batch(0, 1, 2, 3), build_stage(name, trained_model(), HELD[name])
    key = "image/tower" if name == "autoencode" else "tower/frontal"
    before = float(stage(batch, drawn(batch)).logs[key])
    moved = moved_by_training(stage, batch, steps=12)
    assert moved and not any(part.startswith("prompt_encoders") for part in moved)
    assert float(stage(batch, drawn(batch)).logs[key]) < before - 0.05


@pytest.mark.parametrize("name", HELD)
def test_without_weight_nothing_changes_and_rows_stay_independent(name: str) -> None:
    options = {**HELD[name], "tower_weight": 0.0}
    plain, held = build_stage(name, trained_model(), options), build_stage(name, trained_model(), HELD[name])
    batch = phantom_batch(0, 1, 2, 3)
    assert not any(part.startswith("tower") for part, _ in plain.named_parameters())
    key = "image/l1" if name == "autoencode" else "loss/frontal"
    assert torch.equal(plain(batch, drawn(batch)).logs[key], held(batch, drawn(batch)).logs[key])
    assert_rows_are_independent(held.eval())


def test_what_cannot_be_held_is_refused() -> None:
    fresh = tiny_model(seed=0)
    with pytest.raises(TrainingError, match="train 'align' first"):
        build_stage("autoencode", fresh, HELD["autoencode"])
    for wrong in ({"crop_size": 16}, {"decoder_only": True}):
        with pytest.raises(TrainingError, match="whole images and an encoder"):
            build_stage("autoencode", trained_model(), {**HELD["autoencode"], **wrong})
    pooled = trained_model("pooled")
    with pytest.raises(TrainingError, match="context: tokens"):
        build_stage("diffuse", pooled, HELD["diffuse"])
