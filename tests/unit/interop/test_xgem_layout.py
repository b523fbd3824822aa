"""The config of a published model follows from the shapes of its tensors, at any size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medcodi.config import load
from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.errors import CheckpointError
from medcodi.interop.xgem_checkpoint import open_checkpoint
from medcodi.interop.xgem_layout import LayoutConfig, infer_config
from medcodi.interop.xgem_plan import plan
from medcodi.model import MedCoDi, ModelConfig
from medcodi.model.fresh import absent_tokenizers
from tests.golden.xgem.weights import HERE
from tests.unit.interop.published import MINI, MINI_LAYOUT, published_shapes, sparse_checkpoint
from tests.unit.interop.published_unets import Sizes

ROOT = HERE.parents[2]


def test_released_shapes_are_medcodi_m(full, tmp_path) -> None:
    """Inferred from shapes alone, the released model is configs/models/medcodi-m.yaml with its quirks; every tensor fits."""
    checkpoint = open_checkpoint([sparse_checkpoint(tmp_path / "full.safetensors", published_shapes(Sizes()))])
    config = infer_config(checkpoint.shapes, LayoutConfig(), NoiseScheduleConfig())
    written = load(ModelConfig, ROOT / "configs/models/medcodi-m.yaml")
    tower = replace(written.prompt_encoders.image, preprocessing="clip")
    assert config == replace(
        written,
        name="medcodi-m-published",
        prompt_encoders=replace(written.prompt_encoders, image=tower),
        image_denoiser=replace(written.image_denoiser, deepest_skip="published"),
        report_denoiser=replace(written.report_denoiser, deepest_skip="published"),
        joint_attention="self",
        generation=replace(written.generation, sampler="ddim-published"),
    )
    recipes, _ = plan(checkpoint, config)
    with torch.device("meta"):
        components = MedCoDi(written, absent_tokenizers(written)).components()
    for name, module in components.items():
        expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        assert {key: recipe.shape for key, recipe in recipes[name].items()} == expected
    used = {key for each in recipes.values() for recipe in each.values() for key in recipe.sources}
    live = {key for key, row in full.items() if row["live"] == "1" and row["kind"] == "param"}
    assert used == live | {"clip.model.logit_scale"}


OTHERS = {
    "deep": replace(MINI, multipliers=(1, 2, 1, 3), num_res_blocks=3, attention_levels=(1, 2), channels=4),
    "lifted": replace(MINI, multipliers=(2, 1), channels=4),
    "flat": replace(MINI, multipliers=(1,), attention_levels=(0,), environment_multipliers=(1,), vae=(8, 4, 12)),
    "wide": replace(MINI, channels=16, positions=3, environment_base=12, environment_multipliers=(1, 1, 2, 3)),
    "towers": replace(MINI, bert=(8, 3, 8, 9, 11), gpt2=(12, 4, 20, 9, 33), vision=(8, 1, 8, 2, 5), vae_blocks=3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_width_and_depth(name, tmp_path) -> None:
    sizes = OTHERS[name]
    checkpoint = open_checkpoint([sparse_checkpoint(tmp_path / "any.safetensors", published_shapes(sizes))])
    config = infer_config(checkpoint.shapes, LayoutConfig(**MINI_LAYOUT), NoiseScheduleConfig())
    assert config.image_denoiser.multipliers == sizes.multipliers
    assert config.image_denoiser.attention_levels == sizes.attention_levels
    assert config.report_denoiser.num_res_blocks == sizes.num_res_blocks
    assert config.report_denoiser.num_positions == sizes.positions
    assert config.environment.multipliers == sizes.environment_multipliers
    assert config.image_autoencoder.channels == sizes.vae
    assert config.report_autoencoder.decoder_layers == sizes.gpt2[1]
    plan(checkpoint, config)  # refuses what does not fit


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("clip.model.text_projection.weight", None, "has no clip.model.text_projection.weight"),
        ("autokl.encoder.conv_in.weight", (8, 2, 3, 3), "images of 2 channels"),
        ("model.diffusion_model.unet_frontal.input_blocks.1.0.0.emb_layers.1.bias", (9,), "9 channels"),
    ],
)
def test_shapes_that_contradict_are_refused(key, shape, message) -> None:
    shapes = published_shapes(MINI)
    assert key in shapes
    shapes = {**shapes, key: shape} if shape else {name: size for name, size in shapes.items() if name != key}
    with pytest.raises(CheckpointError, match=message):
        infer_config(shapes, LayoutConfig(**MINI_LAYOUT), NoiseScheduleConfig())
