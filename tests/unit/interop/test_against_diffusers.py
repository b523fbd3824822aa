"""The image UNet in Stable Diffusion 1.x's layout and the image autoencoder, against ``diffusers`` with its own converters.

The published UNet is Stable Diffusion 1.x's with every residual block one level deeper in its keys. Without that level, the
keys are what ``diffusers`` reads from original Stable Diffusion files: its converter and networks judge our import.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from medcodi.interop.xgem import import_xgem
from medcodi.interop.xgem_layout import LayoutConfig
from medcodi.model import MedCoDi
from medcodi.networks.attention import Context
from tests.unit.interop.published import MINI, MINI_LAYOUT, published_checkpoint

ROOT = "model.diffusion_model.unet_frontal."
# Four levels, the last without attention, as Stable Diffusion 1.x has them.
SIZES = replace(MINI, multipliers=(1, 2, 2, 2), num_res_blocks=2, attention_levels=(0, 1, 2), vae=(8, 8, 16, 16))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return published_checkpoint(SIZES, seed=3)


@pytest.fixture(scope="module")
def model(published, tmp_path_factory) -> MedCoDi:
    folder = tmp_path_factory.mktemp("diffusers")
    save_file(published, folder / "published.safetensors")
    layout = LayoutConfig(**{**MINI_LAYOUT, "image_size": 64})
    imported = import_xgem(folder / "published.safetensors", folder / "model", layout=layout)
    return MedCoDi.from_pretrained(imported.folder)


def as_stable_diffusion(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The frontal UNet as an original Stable Diffusion file names it: no pairs, no environments, no video."""
    found = {}
    for key, value in published.items():
        if not key.startswith(ROOT) or "connecters" in key or re.search(r"_block(s\.\d+\.0|\.[02])\.1\.", key):
            continue
        plain = re.sub(r"((?:input|output)_blocks\.\d+\.0|middle_block\.[02])\.0\.(in_|out_|emb_|skip)", r"\1.\2", key)
        found[plain.replace(ROOT, "model.diffusion_model.")] = value
    return found


@pytest.fixture(scope="module")
def peer(published) -> Any:
    widths = tuple(SIZES.channels * multiplier for multiplier in SIZES.multipliers)
    network: Any = UNet2DConditionModel
    unet = network(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=SIZES.num_res_blocks,
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        cross_attention_dim=SIZES.embed_dim,
        attention_head_dim=MINI_LAYOUT["num_heads"],  # the number of heads, by that name
        norm_num_groups=MINI_LAYOUT["norm_groups"],
    )
    config = {**unet.config, "class_embed_type": None, "addition_embed_type": None}
    unet.load_state_dict(convert_ldm_unet_checkpoint(as_stable_diffusion(published), config))
    return unet.eval()


@pytest.mark.parametrize("num_tokens", [1, 7, 77])
def test_image_unet_is_diffusers(model, peer, num_tokens) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    z = torch.randn(2, 4, 16, 8, generator=generator)
    tokens = torch.randn(2, num_tokens, SIZES.embed_dim, generator=generator)
    t = torch.tensor([3, 981])
    unet: Any = model.denoisers["frontal"]
    unet.deepest_skip = "ordinary"
    with torch.inference_mode():
        found = model.denoise({"frontal": z}, t, Context(tokens))["frontal"]
        expected = peer(z, t, encoder_hidden_states=tokens).sample
    unet.deepest_skip = "published"
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_the_published_deepest_skip_is_not_diffusers(model, peer) -> None:
    z, tokens, t = torch.ones(1, 4, 16, 16), torch.ones(1, 1, SIZES.embed_dim), torch.tensor([500])
    with torch.inference_mode():
        found = model.denoise({"frontal": z}, t, Context(tokens))["frontal"]
        expected = peer(z, t, encoder_hidden_states=tokens).sample
    assert float((found - expected).abs().max() / expected.abs().max()) > 1e-3


def test_image_autoencoder_is_diffusers(model, published) -> None:
    network: Any = AutoencoderKL
    own = model.config.image_autoencoder
    peer = network(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(own.channels),
        up_block_types=("UpDecoderBlock2D",) * len(own.channels),
        block_out_channels=own.channels,
        layers_per_block=own.layers_per_block,
        latent_channels=4,
        norm_num_groups=own.norm_num_groups,
    ).eval()
    original = {
        key.replace("autokl.", "first_stage_model."): value
        for key, value in published.items()
        if key.startswith("autokl.") and "video_att" not in key
    }
    peer.load_state_dict(convert_ldm_vae_checkpoint(original, peer.config))
    images = torch.rand(2, 1, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = peer.encode(images.expand(-1, 3, -1, -1) * 2 - 1).latent_dist.mean * 0.18215
        found: Any = model.latent("frontal", images)
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
        painted = (peer.decode(expected / 0.18215).sample.mean(1, keepdim=True) * 0.5 + 0.5).clamp(0, 1)
        shown: Any = model.decode("frontal", expected)
        assert float((shown - painted).abs().max()) < 1e-5
