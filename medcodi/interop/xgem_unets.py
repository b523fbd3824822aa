"""The published UNets: their names, and their keys (environment encoders included) as keys of our denoisers and environment encoders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from medcodi.interop.xgem_disposition import VIDEO, WB, Disposition, Shaping, Target, used
from medcodi.modality import MODALITIES, Kind

UNETS = {"unet_frontal": "frontal", "unet_lateral": "lateral", "unet_text": "report"}  # published name -> modality
UNET_ROOT = "model.diffusion_model."

# Pattern there, template here, shaping of a weight.
_ATTENTION: tuple[tuple[str, str, Shaping], ...] = (
    (rf"norm\.{WB}", r"norm.\1", "same"),
    (rf"(proj_in|proj_out)\.{WB}", r"\1.\2", "matrix"),
    (r"transformer_blocks\.0\.attn1\.(to_[qkv])\.weight", r"self_attention.\1.weight", "same"),
    (r"transformer_blocks\.0\.attn2\.(to_[qkv])\.weight", r"cross_attention.\1.weight", "same"),
    (rf"transformer_blocks\.0\.attn1\.to_out\.0\.{WB}", r"self_attention.to_out.\1", "same"),
    (rf"transformer_blocks\.0\.attn2\.to_out\.0\.{WB}", r"cross_attention.to_out.\1", "same"),
    (rf"transformer_blocks\.0\.ff\.net\.0\.proj\.{WB}", r"feed_forward.proj.\1", "same"),
    (rf"transformer_blocks\.0\.ff\.net\.2\.{WB}", r"feed_forward.out.\1", "same"),
    (rf"transformer_blocks\.0\.(norm[123])\.{WB}", r"\1.\2", "same"),
)
_TEMPORAL = r"(temporal_attn|temporal_rel_pos_bias|ff|frameshiftblock)\..+"
_WAYS = {"input": ("down", -1), "output": ("up", 0)}  # the published stem is block 0 of the way down


@dataclass(frozen=True)
class _Names:
    """Names of the parts of a block in one kind of UNet, there (patterns) and here."""

    pair: str  # prefix of the residual block, where a published block is a pair (residual block, video layer)
    residual: Mapping[str, tuple[str, Shaping]]
    down: str  # a step down, there
    up: str  # a step up, there
    up_here: str  # the same, here
    linear: str  # prefix that our stems, steps down and projections have before weight or bias
    pool: str  # the last block of an environment encoder


def _residual_names(layer: str, shaping: Shaping) -> dict[str, tuple[str, Shaping]]:
    return {
        "in_layers.0": ("norm1", "same"),
        "in_layers.2": (f"{layer}1", shaping),
        "emb_layers.1": ("time", "same"),
        "out_layers.0": ("norm2", "same"),
        "out_layers.3": (f"{layer}2", shaping),
        "skip_connection": ("skip", shaping),
    }


_NAMES: dict[Kind, _Names] = {
    "image": _Names(
        pair=r"0\.",
        residual=_residual_names("conv", "same"),
        down=r"0\.op",
        up=r"[12]\.conv",
        up_here="conv.",
        linear="",
        pool="pool.0.",
    ),
    "text": _Names(
        pair="",
        residual=_residual_names("linear", "matrix"),
        down="0",
        up="[12]",
        up_here="layer.",
        linear="layer.",
        pool="pool.",
    ),
}


def unet_disposition(modality: str, rest: str, last_environment: int) -> Disposition | None:
    """The disposition of a key of the UNet of ``modality``; None: no such layer.

    Args:
        modality: Our name of it.
        rest: The key after the UNet's own prefix.
        last_environment: Index of the last block of its environment encoder.
    """
    names, denoiser = _NAMES[MODALITIES[modality].kind], f"denoiser_{modality}"
    environment = f"environment_{modality}"
    # Time embedding: ours has one in the denoiser and a copy in the environment encoder.
    if match := re.fullmatch(rf"time_embed\.(0|2)\.{WB}", rest):
        here = f"time.{'in_proj' if match[1] == '0' else 'out_proj'}.{match[2]}"
        return Disposition("used", targets=(Target(denoiser, here), Target(environment, here)))
    # Environment encoder.
    if match := re.fullmatch(r"connecters_out\.(\d+)\.(.+)", rest):
        return _environment(environment, int(match[1]), match[2], last_environment, names)
    # Stem and head.
    if match := re.fullmatch(rf"input_blocks\.0\.0\.{WB}", rest):
        return used(denoiser, f"stem.{names.linear}{match[1]}")
    if match := re.fullmatch(rf"out\.(0|2)\.{WB}", rest):
        return used(denoiser, f"head.{_projection(match[1], names)}{match[2]}")
    # Middle: residual block, attention, residual block.
    if match := re.fullmatch(r"middle_block\.1\.(.+)", rest):
        return _attention(denoiser, "middle_attention", match[1])
    if match := re.fullmatch(r"middle_block\.(0|2)\.(.+)", rest):
        place = "middle_in" if match[1] == "0" else "middle_out"
        return _video(names, match[2]) or _residual(denoiser, place, names.pair, match[2], names)
    # Blocks of the way down and up, and their connectors to the other denoisers.
    if match := re.fullmatch(r"(input|output)_block_connecters_in\.(\d+)\.0\.(.+)", rest):
        return _attention(denoiser, f"{_block(match[1], match[2])}.connector", match[3])
    if match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(.+)", rest):
        return _member(denoiser, match[1], _block(match[1], match[2]), match[3], names)
    return None


def _block(way: str, index: str) -> str:
    here, offset = _WAYS[way]
    return f"{here}.{int(index) + offset}"


def _projection(index: str, names: _Names) -> str:
    """0 is a norm; 2 is a projection, which ours may wrap."""
    return f"{index}.{names.linear if index == '2' else ''}"


def _video(names: _Names, member: str) -> Disposition | None:
    """The video layer, which is the second of a pair, is dropped; None: it is another member."""
    return Disposition("dropped", VIDEO) if names.pair and re.fullmatch(rf"1\.{_TEMPORAL}", member) else None


def _member(component: str, way: str, block: str, rest: str, names: _Names) -> Disposition | None:
    """A member of a block: a step, an attention, a video layer or a residual block."""
    step, inside = (names.down, names.linear) if way == "input" else (names.up, names.up_here)
    if match := re.fullmatch(rf"{step}\.{WB}", rest):
        return used(component, f"{block}.resize.{inside}{match[1]}")
    if match := re.fullmatch(r"1\.(.+)", rest):
        return _attention(component, f"{block}.attention", match[1])
    if rest.startswith("0.") and (video := _video(names, rest.removeprefix("0."))):
        return video
    return _residual(component, f"{block}.residual", rf"0\.{names.pair}", rest, names)


def _residual(component: str, place: str, prefix: str, rest: str, names: _Names) -> Disposition | None:
    match = re.fullmatch(rf"{prefix}([a-z_]+(?:\.\d)?)\.{WB}", rest)
    if match is None or match[1] not in names.residual:
        return None
    here, shaping = names.residual[match[1]]
    return used(component, f"{place}.{here}.{match[2]}", shaping if match[2] == "weight" else "same")


def _attention(component: str, place: str, rest: str) -> Disposition | None:
    for pattern, template, shaping in _ATTENTION:
        if match := re.fullmatch(pattern, rest):
            here = match.expand(template)
            return used(component, f"{place}.{here}", shaping if here.endswith("weight") else "same")
    return None


def _environment(component: str, index: int, rest: str, last: int, names: _Names) -> Disposition | None:
    """Block 0 is the stem, odd blocks are residual, even ones steps down; the last one holds norm and projection."""
    if index == 0 and (match := re.fullmatch(rf"0\.{WB}", rest)):
        return used(component, f"stem.{names.linear}{match[1]}")
    if index == last and (match := re.fullmatch(rf"(0|2)\.{WB}", rest)):
        return used(component, f"{names.pool}{_projection(match[1], names)}{match[2]}")
    if index % 2 == 0 and 0 < index < last and (match := re.fullmatch(rf"{names.down}\.{WB}", rest)):
        return used(component, f"downs.{index // 2}.{names.linear}{match[1]}")
    if index % 2:
        video = _video(names, rest.removeprefix("0.")) if rest.startswith("0.") else None
        return video or _residual(component, f"residuals.{index // 2}", rf"0\.{names.pair}", rest, names)
    return None
