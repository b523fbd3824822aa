"""Keys of the published image autoencoder, report autoencoder and CLIP -> keys of ours, which are those of three libraries."""

from __future__ import annotations

import re

from medcodi.interop.xgem_fate import VIDEO, WB, Fate, Shaping, Target, used

TIED = "decoder.lm_head.weight"
_IMAGE, _TEXT, _PROMPTS = "autoencoder_image", "autoencoder_text", "prompt_encoders"

_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_PLAIN = {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "conv_norm_out"}
_VAE_RESIDUAL = rf"(norm1|conv1|norm2|conv2|nin_shortcut)\.{WB}"


def vae_fate(rest: str, num_levels: int) -> Fate | None:
    """A key after ``autokl.`` -> ``diffusers.AutoencoderKL``, which counts the decoder's levels from the other end."""
    if found := re.fullmatch(rf"(quant_conv|post_quant_conv)\.{WB}", rest):
        return used(_IMAGE, f"net.{found[1]}.{found[2]}")
    if re.fullmatch(r"decoder\.(mid\.video_att|up\.\d+\.video_attn\.\d+)\.frameshiftblock\..+", rest):
        return Fate("dropped", VIDEO)
    side, _, inner = rest.partition(".")
    if side not in ("encoder", "decoder"):
        return None
    home = f"net.{side}"
    if found := re.fullmatch(rf"(conv_in|conv_out|norm_out)\.{WB}", inner):
        return used(_IMAGE, f"{home}.{_VAE_PLAIN[found[1]]}.{found[2]}")
    if found := re.fullmatch(rf"mid\.block_([12])\.{_VAE_RESIDUAL}", inner):
        return used(_IMAGE, f"{home}.mid_block.resnets.{int(found[1]) - 1}.{_vae_residual(found[2])}.{found[3]}")
    if found := re.fullmatch(rf"mid\.attn_1\.(norm|q|k|v|proj_out)\.{WB}", inner):
        shaping: Shaping = "matrix" if found[1] != "norm" and found[2] == "weight" else "same"
        return used(_IMAGE, f"{home}.mid_block.attentions.0.{_VAE_ATTENTION[found[1]]}.{found[2]}", shaping)
    way, step = ("down", "downsample") if side == "encoder" else ("up", "upsample")
    if found := re.match(rf"{way}\.(\d+)\.", inner):
        level = int(found[1]) if way == "down" else num_levels - 1 - int(found[1])
        member = inner[found.end() :]
        if found := re.fullmatch(rf"block\.(\d+)\.{_VAE_RESIDUAL}", member):
            return used(_IMAGE, f"{home}.{way}_blocks.{level}.resnets.{found[1]}.{_vae_residual(found[2])}.{found[3]}")
        if found := re.fullmatch(rf"{step}\.conv\.{WB}", member):
            return used(_IMAGE, f"{home}.{way}_blocks.{level}.{step}rs.0.conv.{found[1]}")
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


def optimus_fate(rest: str) -> Fate | None:
    """A key after ``optimus.`` -> ``BertModel``, ``GPT2Model`` and the three linear maps around z."""
    if rest == TIED:
        return Fate("used", "tied: checked to be the same numbers as wte", (Target(_TEXT, "decoder.wte.weight"),))
    if rest == "encoder.linear.weight":
        return used(_TEXT, "to_posterior.weight")
    if rest == "decoder.transformer.linear.weight":
        return used(_TEXT, "to_memory.weight")
    if rest == "decoder.transformer.linear_emb.weight":
        return used(_TEXT, "to_embedding.weight")
    if re.fullmatch(r"decoder\.transformer\.h\.\d+\.attn\.bias", rest):
        return Fate("derivable", "causal mask")
    if re.fullmatch(r"encoder\.embeddings\.position_ids", rest):
        return Fate("derivable", "numbers of the positions")
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


def clip_fate(rest: str) -> Fate | None:
    """A key after ``clip.model.`` -> the towers of ``open_clip``, which hold query, key and value as one matrix."""
    if rest == "logit_scale":
        why = "generation does not run it; aligning goes on from it"
        return Fate("kept", why, (Target(_PROMPTS, "logit_scale"),))
    if re.fullmatch(r"(text|vision)_model\.embeddings\.position_ids", rest):
        return Fate("derivable", "numbers of the positions")
    if rest in _CLIP_SINGLE:
        return used(_PROMPTS, *_CLIP_SINGLE[rest])
    if (found := re.fullmatch(rf"(.+)\.{WB}", rest)) and found[1] in _CLIP_NORMS:
        return used(_PROMPTS, f"{_CLIP_NORMS[found[1]]}.{found[2]}")
    found = re.fullmatch(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)", rest)
    if found is None:
        return None
    block, inner = f"{_TOWERS[found[1]]}.transformer.resblocks.{found[2]}", found[3]
    if found[1] == "vision_model" and inner.startswith("temporal_self_attn."):
        return Fate("dropped", VIDEO)
    if found := re.fullmatch(rf"self_attn\.([qkv])_proj\.{WB}", inner):
        return used(_PROMPTS, f"{block}.attn.in_proj_{found[2]}", part="qkv".index(found[1]), num_parts=3)
    if (found := re.fullmatch(rf"(.+)\.{WB}", inner)) and found[1] in _CLIP_BLOCK:
        return used(_PROMPTS, f"{block}.{_CLIP_BLOCK[found[1]]}.{found[2]}")
    return None
