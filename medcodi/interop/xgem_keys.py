"""The disposition of every key of the published checkpoint: where its tensor goes among ours, or why it goes nowhere.

The published layout (the released MedCoDi-M, later called XGeM) is one flat dictionary: noise-schedule buffers without
prefix, ``model.diffusion_model.unet_*``, ``autokl``, ``optimus`` and ``clip.model``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medcodi.interop.xgem_disposition import VIDEO, WB, Disposition, Shaping, Target, used
from medcodi.interop.xgem_unets import UNET_ROOT, UNETS, unet_disposition

TIED, TIED_TO = "optimus.decoder.lm_head.weight", "optimus.decoder.transformer.wte.weight"
# Prefixes that files of single parts leave out: the published training scripts save modules separately.
ROOTS = ("", "model.", UNET_ROOT, "optimus.", "clip.", "clip.model.", "autokl.")
WRAPPERS = ("state_dict.", "net.", "module.")  # prefixes added by wrapping a module

_SCHEDULE = (
    r"betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod|sqrt_recip(m1)?_alphas_cumprod"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])"
)


@dataclass(frozen=True)
class Census:
    """Counts over all keys, without which single keys cannot be interpreted."""

    vae_levels: int  # levels of the image autoencoder
    # published name of a UNet -> index of the last block of its environment encoder
    last_environment: Mapping[str, int]

    @classmethod
    def of(cls, keys: Iterable[str]) -> Census:
        """Count over the keys of a checkpoint, with or without their roots."""
        levels, last = 0, dict.fromkeys(UNETS, 0)
        for key in keys:
            if match := re.search(r"(?:^|\.)(?:encoder\.down|decoder\.up)\.(\d+)\.", key):
                levels = max(levels, int(match[1]) + 1)
            elif match := re.search(r"(?:^|\.)(unet_\w+)\.connecters_out\.(\d+)\.", key):
                last[match[1]] = max(last.get(match[1], 0), int(match[2]))
        return cls(levels, last)


def disposition(key: str, census: Census) -> Disposition | None:
    """The disposition of a key of the published checkpoint; None: it is not of that layout."""
    if re.fullmatch(_SCHEDULE, key):
        return Disposition("derivable", "follows from the noise schedule")
    if key.startswith(UNET_ROOT):
        name, _, rest = key.removeprefix(UNET_ROOT).partition(".")
        return unet_disposition(UNETS[name], rest, census.last_environment[name]) if name in UNETS else None
    if key.startswith("autokl."):
        return vae_disposition(key.removeprefix("autokl."), census.vae_levels)
    if key.startswith("optimus."):
        return optimus_disposition(key.removeprefix("optimus."))
    if key.startswith("clip.model."):
        return clip_disposition(key.removeprefix("clip.model."))
    return None


def unwrapped(key: str) -> str:
    """The key without the prefixes of wrapped modules."""
    while wrapper := next((wrapper for wrapper in WRAPPERS if key.startswith(wrapper)), None):
        key = key.removeprefix(wrapper)
    return key


def rooted(key: str, census: Census) -> str | None:
    """The key with the prefix that a file of a single part leaves out; None: with no prefix is it a key of the layout."""
    return next((root + key for root in ROOTS if disposition(root + key, census) is not None), None)


# ---- image autoencoder, report autoencoder, CLIP -> keys of three libraries ----------------------------------------
_IMAGE, _TEXT, _PROMPTS = "autoencoder_image", "autoencoder_text", "prompt_encoders"

_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_PLAIN = {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "conv_norm_out"}
_VAE_RESIDUAL = rf"(norm1|conv1|norm2|conv2|nin_shortcut)\.{WB}"


def vae_disposition(rest: str, num_levels: int) -> Disposition | None:
    """A key after ``autokl.`` -> ``diffusers.AutoencoderKL``, which counts the decoder's levels from the other end; None: unknown."""
    if match := re.fullmatch(rf"(quant_conv|post_quant_conv)\.{WB}", rest):
        return used(_IMAGE, f"net.{match[1]}.{match[2]}")
    if re.fullmatch(r"decoder\.(mid\.video_att|up\.\d+\.video_attn\.\d+)\.frameshiftblock\..+", rest):
        return Disposition("dropped", VIDEO)
    # Convolutions at both ends.
    side, _, inner = rest.partition(".")
    if side not in ("encoder", "decoder"):
        return None
    home = f"net.{side}"
    if match := re.fullmatch(rf"(conv_in|conv_out|norm_out)\.{WB}", inner):
        return used(_IMAGE, f"{home}.{_VAE_PLAIN[match[1]]}.{match[2]}")
    # Middle: residual block, attention, residual block.
    if match := re.fullmatch(rf"mid\.block_([12])\.{_VAE_RESIDUAL}", inner):
        return used(_IMAGE, f"{home}.mid_block.resnets.{int(match[1]) - 1}.{_vae_residual(match[2])}.{match[3]}")
    if match := re.fullmatch(rf"mid\.attn_1\.(norm|q|k|v|proj_out)\.{WB}", inner):
        shaping: Shaping = "matrix" if match[1] != "norm" and match[2] == "weight" else "same"
        return used(_IMAGE, f"{home}.mid_block.attentions.0.{_VAE_ATTENTION[match[1]]}.{match[2]}", shaping)
    # Levels: residual blocks, and a step down or up.
    way, step = ("down", "downsample") if side == "encoder" else ("up", "upsample")
    if match := re.match(rf"{way}\.(\d+)\.", inner):
        level = int(match[1]) if way == "down" else num_levels - 1 - int(match[1])
        member = inner[match.end() :]
        if match := re.fullmatch(rf"block\.(\d+)\.{_VAE_RESIDUAL}", member):
            return used(_IMAGE, f"{home}.{way}_blocks.{level}.resnets.{match[1]}.{_vae_residual(match[2])}.{match[3]}")
        if match := re.fullmatch(rf"{step}\.conv\.{WB}", member):
            return used(_IMAGE, f"{home}.{way}_blocks.{level}.{step}rs.0.conv.{match[1]}")
    return None


def _vae_residual(name: str) -> str:
    return "conv_shortcut" if name == "nin_shortcut" else name


_BERT_LAYER = (
    r"encoder\.layer\.\d+\.(attention\.(self\.(query|key|value)|output\.(dense|LayerNorm))"
    rf"|intermediate\.dense|output\.(dense|LayerNorm))\.{WB}"
)
_BERT = (
    r"embeddings\.(word_embeddings|position_embeddings|token_type_embeddings)\.weight"
    rf"|embeddings\.LayerNorm\.{WB}|pooler\.dense\.{WB}|{_BERT_LAYER}"
)
_GPT2 = rf"(wte|wpe)\.weight|ln_f\.{WB}|h\.\d+\.(ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.{WB}"


def optimus_disposition(rest: str) -> Disposition | None:
    """A key after ``optimus.`` -> ``BertModel``, ``GPT2Model`` and the three linear maps around z."""
    # The output matrix, and the three linear maps around z.
    if rest == "decoder.lm_head.weight":
        return Disposition(
            "used", "tied: checked to be the same numbers as wte", (Target(_TEXT, "decoder.wte.weight"),)
        )
    if rest == "encoder.linear.weight":
        return used(_TEXT, "to_posterior.weight")
    if rest == "decoder.transformer.linear.weight":
        return used(_TEXT, "to_memory.weight")
    if rest == "decoder.transformer.linear_emb.weight":
        return used(_TEXT, "to_embedding.weight")
    # Buffers.
    if re.fullmatch(r"decoder\.transformer\.h\.\d+\.attn\.bias", rest):
        return Disposition("derivable", "causal mask")
    if re.fullmatch(r"encoder\.embeddings\.position_ids", rest):
        return Disposition("derivable", "numbers of the positions")
    # Layers of the two transformers.
    side, _, inner = rest.partition(".")
    if side == "encoder" and re.fullmatch(_BERT, inner):
        return used(_TEXT, f"encoder.{inner}")
    if side == "decoder" and inner.startswith("transformer."):
        inner = inner.removeprefix("transformer.")
        return used(_TEXT, f"decoder.{inner}") if re.fullmatch(_GPT2, inner) else None
    return None


_TOWERS = {"text_model": "text_tower", "vision_model": "image_tower"}
_CLIP_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_CLIP_NORMS = {
    "text_model.final_layer_norm": "text_tower.ln_final",
    "vision_model.pre_layrnorm": "image_tower.ln_pre",
    "vision_model.post_layernorm": "image_tower.ln_post",
}
_CLIP_SINGLE: dict[str, tuple[str, Shaping]] = {
    "text_model.embeddings.token_embedding.weight": ("text_tower.token_embedding.weight", "same"),
    "text_model.embeddings.position_embedding.weight": ("text_tower.positional_embedding", "same"),
    "text_projection.weight": ("text_tower.text_projection", "transposed"),
    "vision_model.embeddings.class_embedding": ("image_tower.class_embedding", "same"),
    "vision_model.embeddings.patch_embedding.weight": ("image_tower.conv1.weight", "same"),
    "vision_model.embeddings.position_embedding.weight": ("image_tower.positional_embedding", "same"),
    "visual_projection.weight": ("image_tower.proj", "transposed"),
}


def clip_disposition(rest: str) -> Disposition | None:
    """A key after ``clip.model.`` -> the towers of ``open_clip``, which hold query, key and value as one matrix."""
    if rest == "logit_scale":
        why = "generation does not run it; aligning starts from it"
        return Disposition("kept", why, (Target(_PROMPTS, "logit_scale"),))
    if re.fullmatch(r"(text|vision)_model\.embeddings\.position_ids", rest):
        return Disposition("derivable", "numbers of the positions")
    if rest in _CLIP_SINGLE:
        return used(_PROMPTS, *_CLIP_SINGLE[rest])
    if (match := re.fullmatch(rf"(.+)\.{WB}", rest)) and match[1] in _CLIP_NORMS:
        return used(_PROMPTS, f"{_CLIP_NORMS[match[1]]}.{match[2]}")
    match = re.fullmatch(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)", rest)
    if match is None:
        return None
    # Transformer blocks: query, key and value are concatenated.
    block, inner = f"{_TOWERS[match[1]]}.transformer.resblocks.{match[2]}", match[3]
    if match[1] == "vision_model" and inner.startswith("temporal_self_attn."):
        return Disposition("dropped", VIDEO)
    if match := re.fullmatch(rf"self_attn\.([qkv])_proj\.{WB}", inner):
        return used(_PROMPTS, f"{block}.attn.in_proj_{match[2]}", part="qkv".index(match[1]), num_parts=3)
    if (match := re.fullmatch(rf"(.+)\.{WB}", inner)) and match[1] in _CLIP_BLOCK:
        return used(_PROMPTS, f"{block}.{_CLIP_BLOCK[match[1]]}.{match[2]}")
    return None
