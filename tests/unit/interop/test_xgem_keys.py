"""Every key of the released checkpoint has a fate, and it is the one that was measured."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from dataclasses import replace

import pytest
import torch

from medcodi.config import load
from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.interop.xgem_keys import Census, fate, rooted, unwrapped
from medcodi.interop.xgem_layout import Untold, infer_config
from medcodi.interop.xgem_plan import absent_tokenizers, plan
from medcodi.interop.xgem_source import open_checkpoint
from medcodi.model import MedCoDi, ModelConfig
from tests.golden.xgem.weights import HERE
from tests.unit.interop.published import MINI, MINI_UNTOLD, published_shapes, sparse_checkpoint
from tests.unit.interop.published_unets import Sizes

ROOT = HERE.parents[2]


@pytest.fixture(scope="module")
def full() -> dict[str, dict[str, str]]:
    with gzip.open(HERE / "keys_full.csv.gz", "rt", encoding="utf-8") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def shape_of(row: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(size) for size in row["shape"].split("x")) if row["shape"] else ()


def test_all_released_keys_are_accounted_for_as_measured(full) -> None:
    census = Census.of(full)
    fates = {key: fate(key, census) for key in full}
    assert len(full) == 5931 and None not in fates.values()
    counts = Counter(
        (each.status, row["live"], row["kind"]) for each, row in zip(fates.values(), full.values(), strict=True)
    )
    assert counts == {
        ("used", "1", "param"): 4553,
        ("used", "1", "tied"): 1,  # lm_head, checked to be wte
        ("dropped", "0", "param"): 1350,  # video layers
        ("kept", "0", "param"): 1,  # the temperature: generation does not run it, aligning goes on from it
        ("derivable", "1", "buffer"): 15,  # alphas_cumprod, causal masks, position numbers: run, but made anew
        ("derivable", "0", "buffer"): 11,  # the rest of the noise schedule
    }


def test_the_description_in_these_tests_is_the_released_layout(full) -> None:
    shapes = published_shapes(Sizes())
    assert shapes.keys() == full.keys()
    seen = [key for key, row in full.items() if row["live"] == "1" or row["kind"] == "buffer"]
    assert {key: shapes[key] for key in seen} == {key: shape_of(full[key]) for key in seen}


def test_released_shapes_are_medcodi_m(full, tmp_path) -> None:
    """Inferred from shapes alone, the released model is configs/models/medcodi-m.yaml with its quirks; every tensor fits."""
    checkpoint = open_checkpoint([sparse_checkpoint(tmp_path / "full.safetensors", published_shapes(Sizes()))])
    config = infer_config(checkpoint.shapes, Untold(), NoiseScheduleConfig())
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
    config = infer_config(checkpoint.shapes, Untold(**MINI_UNTOLD), NoiseScheduleConfig())
    assert config.image_denoiser.multipliers == sizes.multipliers
    assert config.image_denoiser.attention_levels == sizes.attention_levels
    assert config.report_denoiser.num_res_blocks == sizes.num_res_blocks
    assert config.report_denoiser.num_positions == sizes.positions
    assert config.environment.multipliers == sizes.environment_multipliers
    assert config.image_autoencoder.channels == sizes.vae
    assert config.report_autoencoder.decoder_layers == sizes.gpt2[1]
    plan(checkpoint, config)  # refuses what does not fit


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.unet_audio.out.0.weight",
        "model.diffusion_model.unet_frontal.input_blocks.1.0.0.in_layers.1.weight",
        "model.diffusion_model.unet_text.input_blocks.1.0.1.temporal_attn.to_q.weight",  # texts have no video layers
        "model.diffusion_model.unet_frontal.middle_block.1.transformer_blocks.1.norm1.weight",
        "autokl.loss.logvar",
        "optimus.decoder.transformer.h.0.crossattention.c_attn.weight",
        "clip.model.text_model.encoder.layers.0.temporal_self_attn.ff.proj_out.0.g",
        "epoch",
    ],
)
def test_keys_of_other_layouts_are_unknown(full, key) -> None:
    assert fate(key, Census.of(full)) is None


@pytest.mark.parametrize(
    ("found", "meant"),
    [
        ("state_dict.model.diffusion_model.unet_text.out.0.bias", "model.diffusion_model.unet_text.out.0.bias"),
        ("module.net.autokl.quant_conv.bias", "autokl.quant_conv.bias"),
        ("diffusion_model.unet_lateral.out.2.bias", "model.diffusion_model.unet_lateral.out.2.bias"),
        ("unet_lateral.out.2.bias", "model.diffusion_model.unet_lateral.out.2.bias"),
        ("encoder.pooler.dense.bias", "optimus.encoder.pooler.dense.bias"),
        ("decoder.lm_head.weight", "optimus.decoder.lm_head.weight"),
        ("text_model.final_layer_norm.bias", "clip.model.text_model.final_layer_norm.bias"),
        ("model.visual_projection.weight", "clip.model.visual_projection.weight"),
        ("betas", "betas"),
    ],
)
def test_wrappers_go_and_roots_come_back(full, found, meant) -> None:
    assert rooted(unwrapped(found), Census.of(full)) == meant
