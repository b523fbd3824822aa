"""Keys of the published UNets and of the environment encoders inside them -> keys of our denoisers and environment encoders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from medcodi.interop.xgem_fate import VIDEO, WB, Fate, Shaping, Target, used
from medcodi.modality import MODALITIES, Kind

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
    """How one kind of UNet calls the parts of its blocks there, and what they are called here."""

    pair: (
        str  # where a block of the published UNet is a pair (residual block, video layer): the first one's place in it
    )
    residual: Mapping[str, tuple[str, Shaping]]
    down: str  # a step down, before weight or bias
    up: str
    up_here: str
    linear: str  # what our layers add before weight or bias of a stem, a step down and a projection
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


def unet_fate(modality: str, rest: str, last_environment: int) -> Fate | None:
    """What becomes of a key of the UNet of ``modality``.

    Args:
        modality: Ours.
        rest: The key after the UNet's own prefix.
        last_environment: Index of the last block of its environment encoder.
    """
    names, denoiser = _NAMES[MODALITIES[modality].kind], f"denoiser_{modality}"
    environment = f"environment_{modality}"
    if found := re.fullmatch(rf"time_embed\.(0|2)\.{WB}", rest):
        here = f"time.{'in_proj' if found[1] == '0' else 'out_proj'}.{found[2]}"
        return Fate("used", targets=(Target(denoiser, here), Target(environment, here)))  # ours has a copy of its own
    if found := re.fullmatch(r"connecters_out\.(\d+)\.(.+)", rest):
        return _environment(environment, int(found[1]), found[2], last_environment, names)
    if found := re.fullmatch(rf"input_blocks\.0\.0\.{WB}", rest):
        return used(denoiser, f"stem.{names.linear}{found[1]}")
    if found := re.fullmatch(rf"out\.(0|2)\.{WB}", rest):
        return used(denoiser, f"head.{_projection(found[1], names)}{found[2]}")
    if found := re.fullmatch(r"middle_block\.1\.(.+)", rest):
        return _attention(denoiser, "middle_attention", found[1])
    if found := re.fullmatch(r"middle_block\.(0|2)\.(.+)", rest):
        place = "middle_in" if found[1] == "0" else "middle_out"
        return _video(names, found[2]) or _residual(denoiser, place, names.pair, found[2], names)
    if found := re.fullmatch(r"(input|output)_block_connecters_in\.(\d+)\.0\.(.+)", rest):
        return _attention(denoiser, f"{_block(found[1], found[2])}.connector", found[3])
    if found := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(.+)", rest):
        return _member(denoiser, found[1], _block(found[1], found[2]), found[3], names)
    return None


def _block(way: str, index: str) -> str:
    here, offset = _WAYS[way]
    return f"{here}.{int(index) + offset}"


def _projection(index: str, names: _Names) -> str:
    """0 is a norm; 2 is a projection, which ours may wrap."""
    return f"{index}.{names.linear if index == '2' else ''}"


def _video(names: _Names, member: str) -> Fate | None:
    """Dropped, if this is the second of a pair."""
    return Fate("dropped", VIDEO) if names.pair and re.fullmatch(rf"1\.{_TEMPORAL}", member) else None


def _member(component: str, way: str, block: str, rest: str, names: _Names) -> Fate | None:
    """A member of a block of the way down or up: residual block, video layer, attention, or a step."""
    step, inside = (names.down, names.linear) if way == "input" else (names.up, names.up_here)
    if found := re.fullmatch(rf"{step}\.{WB}", rest):
        return used(component, f"{block}.resize.{inside}{found[1]}")
    if found := re.fullmatch(r"1\.(.+)", rest):
        return _attention(component, f"{block}.attention", found[1])
    if rest.startswith("0.") and (dead := _video(names, rest.removeprefix("0."))):
        return dead
    return _residual(component, f"{block}.residual", rf"0\.{names.pair}", rest, names)


def _residual(component: str, place: str, prefix: str, rest: str, names: _Names) -> Fate | None:
    found = re.fullmatch(rf"{prefix}([a-z_]+(?:\.\d)?)\.{WB}", rest)
    if found is None or found[1] not in names.residual:
        return None
    here, shaping = names.residual[found[1]]
    return used(component, f"{place}.{here}.{found[2]}", shaping if found[2] == "weight" else "same")


def _attention(component: str, place: str, rest: str) -> Fate | None:
    for pattern, template, shaping in _ATTENTION:
        if found := re.fullmatch(pattern, rest):
            here = found.expand(template)
            return used(component, f"{place}.{here}", shaping if here.endswith("weight") else "same")
    return None


def _environment(component: str, index: int, rest: str, last: int, names: _Names) -> Fate | None:
    """The stem is block 0; then residual blocks, with steps down between; norm and projection are the last block."""
    if index == 0 and (found := re.fullmatch(rf"0\.{WB}", rest)):
        return used(component, f"stem.{names.linear}{found[1]}")
    if index == last and (found := re.fullmatch(rf"(0|2)\.{WB}", rest)):
        return used(component, f"{names.pool}{_projection(found[1], names)}{found[2]}")
    if index % 2 == 0 and 0 < index < last and (found := re.fullmatch(rf"{names.down}\.{WB}", rest)):
        return used(component, f"downs.{index // 2}.{names.linear}{found[1]}")
    if index % 2:
        dead = _video(names, rest.removeprefix("0.")) if rest.startswith("0.") else None
        return dead or _residual(component, f"residuals.{index // 2}", rf"0\.{names.pair}", rest, names)
    return None
