"""Every key of the released checkpoint has a disposition, and it is the one that was measured."""

from __future__ import annotations

from collections import Counter

import pytest

from medcodi.interop.xgem_keys import Census, disposition, rooted, unwrapped
from tests.unit.interop.published import published_shapes
from tests.unit.interop.published_unets import Sizes


def shape_of(row: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(size) for size in row["shape"].split("x")) if row["shape"] else ()


def test_all_released_keys_are_accounted_for_as_measured(full) -> None:
    census = Census.of(full)
    dispositions = {key: disposition(key, census) for key in full}
    assert len(full) == 5931 and None not in dispositions.values()
    counts = Counter(
        (of_key.status, row["live"], row["kind"])
        for of_key, row in zip(dispositions.values(), full.values(), strict=True)
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
    assert disposition(key, Census.of(full)) is None


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
