"""Keys of the published UNets by hand: one of every part."""

from __future__ import annotations

import pytest

from medcodi.interop.xgem_unets import unet_disposition

LAST = 5  # blocks of the environment encoder: stem, residual, step down, residual, step down, norm and projection


@pytest.mark.parametrize(
    ("modality", "rest", "component", "key", "shaping"),
    [
        ("frontal", "input_blocks.0.0.weight", "denoiser_frontal", "stem.weight", "same"),
        ("report", "input_blocks.0.0.bias", "denoiser_report", "stem.layer.bias", "same"),
        (
            "frontal",
            "input_blocks.1.0.0.in_layers.2.weight",
            "denoiser_frontal",
            "down.0.residual.conv1.weight",
            "same",
        ),
        (
            "report",
            "input_blocks.1.0.in_layers.2.weight",
            "denoiser_report",
            "down.0.residual.linear1.weight",
            "matrix",
        ),
        ("lateral", "output_blocks.3.2.conv.bias", "denoiser_lateral", "up.3.resize.conv.bias", "same"),
        ("frontal", "middle_block.1.proj_in.weight", "denoiser_frontal", "middle_attention.proj_in.weight", "matrix"),
        (
            "frontal",
            "input_block_connecters_in.2.0.transformer_blocks.0.attn2.to_q.weight",
            "denoiser_frontal",
            "down.1.connector.cross_attention.to_q.weight",
            "same",
        ),
        ("lateral", "connecters_out.0.0.weight", "environment_lateral", "stem.weight", "same"),
        ("lateral", "connecters_out.2.0.op.weight", "environment_lateral", "downs.1.weight", "same"),
        ("report", f"connecters_out.{LAST}.2.weight", "environment_report", "pool.2.layer.weight", "same"),
    ],
)
def test_parts(modality, rest, component, key, shaping) -> None:
    disposition = unet_disposition(modality, rest, LAST)
    assert disposition is not None and disposition.status == "used"
    (target,) = disposition.targets
    assert (target.component, target.key, target.shaping) == (component, key, shaping)


def test_the_time_embedding_goes_to_denoiser_and_environment_encoder() -> None:
    disposition = unet_disposition("frontal", "time_embed.2.bias", LAST)
    assert disposition is not None
    assert [(target.component, target.key) for target in disposition.targets] == [
        ("denoiser_frontal", "time.out_proj.bias"),
        ("environment_frontal", "time.out_proj.bias"),
    ]


def test_video_layers_are_dropped_and_unknown_layers_are_not_guessed() -> None:
    video = unet_disposition("frontal", "input_blocks.1.0.1.temporal_attn.to_q.weight", LAST)
    assert video is not None and video.status == "dropped" and not video.targets
    assert unet_disposition("report", "input_blocks.1.0.1.temporal_attn.to_q.weight", LAST) is None
    assert unet_disposition("frontal", "input_blocks.1.0.0.in_layers.1.weight", LAST) is None
