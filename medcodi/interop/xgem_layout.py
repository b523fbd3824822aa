"""The config of a published model, inferred from the shapes of its tensors, and from settings where shapes do not show a size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medcodi.config import config
from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.errors import CheckpointError
from medcodi.interop.xgem_unets import UNET_ROOT, UNETS
from medcodi.modality import MODALITIES
from medcodi.model.config import ModelConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.networks.environment import EnvironmentConfig
from medcodi.networks.image_autoencoder import ImageAutoencoderConfig
from medcodi.networks.prompt_encoders import ImageTowerConfig, PromptEncodersConfig, TextTowerConfig
from medcodi.networks.report_autoencoder import ReportAutoencoderConfig
from medcodi.networks.unet import UNetConfig

Shapes = Mapping[str, tuple[int, ...]]

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


@config
class LayoutConfig:
    """Sizes that the shapes of a checkpoint do not show; the defaults are the released model's."""

    name: str = "medcodi-m-published"
    image_size: int = 256  # the autoencoder takes any multiple of its factor
    num_heads: int = 8  # of the UNets
    norm_groups: int = 32  # of the UNets and the environment encoders
    vae_norm_groups: int = 32
    text_heads: int | None = None  # None, here and below: one for every 64 channels
    image_heads: int | None = None
    report_heads: int | None = None  # of the report encoder
    decoder_heads: int | None = None
    max_report_tokens: int = 256  # longest report that is written, or read by the report encoder


def infer_config(shapes: Shapes, layout: LayoutConfig, schedule: NoiseScheduleConfig) -> ModelConfig:
    """The config of the model with tensors of these shapes, and with the two quirks that the released weights were trained with.

    Args:
        shapes: Published key -> shape.
        layout: Sizes that shapes do not show.
        schedule: The noise schedule.

    Raises:
        CheckpointError: If a tensor that shows a size is missing, or two parts contradict each other.
    """
    # The UNets of one kind share a config, and all environment encoders do.
    unets = {name: _unet(shapes, name, layout) for name in UNETS}
    environment = _agreed({name: _environment(shapes, name, unet) for name, unet in unets.items()})
    by_kind = {
        kind: _agreed({name: unet for name, unet in unets.items() if MODALITIES[UNETS[name]].kind == kind})
        for kind in ("image", "text")
    }
    prompts = PromptEncodersConfig(
        embed_dim=_shape(shapes, "clip.model.text_projection.weight")[0],
        image=_image_tower(shapes, layout),
        text=_text_tower(shapes, layout),
    )
    return ModelConfig(
        name=layout.name,
        image_size=layout.image_size,
        vocab_size=_shape(shapes, "optimus.encoder.embeddings.word_embeddings.weight")[0],
        context="pooled",
        context_scale=1.0,
        prompt_encoders=prompts,
        image_autoencoder=_vae(shapes, layout),
        report_autoencoder=_optimus(shapes, layout),
        image_denoiser=by_kind["image"],
        report_denoiser=by_kind["text"],
        environment=environment,
        joint_attention="self",
        schedule=schedule,
        generation=GenerationConfig(sampler="ddim-published", num_inference_steps=50, guidance_scale=7.5),
    )


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise CheckpointError(
            f"the checkpoint has no {key}",
            expected="every part of the published model: three UNets, autokl, optimus and clip",
            fix="where parts were saved in files of their own, give them too (--also), or a folder that holds them all",
        )
    return shapes[key]


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that ``pattern`` matches."""
    return max((int(match[1]) for key in shapes if (match := re.match(pattern, key))), default=-1) + 1


def _agreed(values: Mapping[str, Any]) -> Any:
    """The value that all these UNets share, because they are built from one config."""
    (first, value), *others = values.items()
    for name, other in others:
        if other != value:
            raise CheckpointError(
                f"{first} and {name} differ in size: {value} and {other}", expected="UNets of one size and depth"
            )
    return value


def _times(key: str, width: int, base: int) -> int:
    if not base or width % base:
        raise CheckpointError(f"{key} has {width} channels", expected=f"a multiple of {base}")
    return width // base


# ---- UNets ---------------------------------------------------------------------------------------------------------
def _base(shapes: Shapes, root: str) -> int:
    """``model_channels``: the width of the time's sinusoid."""
    return _shape(shapes, f"{root}time_embed.0.weight")[1]


def _positions(shapes: Shapes, name: str, root: str) -> int:
    """Number of positions that a latent vector is folded into; 1 for maps."""
    if MODALITIES[UNETS[name]].kind == "image":
        return 1
    key = f"{root}input_blocks.0.0.weight"
    return _times(key, _shape(shapes, key)[0], _base(shapes, root))


def _unet(shapes: Shapes, name: str, layout: LayoutConfig) -> UNetConfig:
    root = f"{UNET_ROOT}{name}."
    base, positions = _base(shapes, root), _positions(shapes, name, root)
    residual, step = ("0.0", "0.op") if MODALITIES[UNETS[name]].kind == "image" else ("0", "0")
    # Level -> residual block -> (multiplier, has attention); a step down starts a new level.
    levels: list[list[tuple[int, bool]]] = [[]]
    for index in range(1, _count(shapes, rf"{re.escape(root)}input_blocks\.(\d+)\.")):
        block = f"{root}input_blocks.{index}"
        if f"{block}.{step}.weight" in shapes:
            levels.append([])
            continue
        key = f"{block}.{residual}.emb_layers.1.bias"
        width = _times(key, _shape(shapes, key)[0], base * positions)
        levels[-1].append((width, f"{block}.1.norm.weight" in shapes))
    if any(len(set(level)) != 1 or len(level) != len(levels[0]) for level in levels):
        raise CheckpointError(
            f"{name} has levels of {[len(level) for level in levels]} residual blocks: {levels}",
            expected="as many on each level, alike within it",
        )
    return UNetConfig(
        base_channels=base,
        multipliers=tuple(level[0][0] for level in levels),
        num_res_blocks=len(levels[0]),
        attention_levels=tuple(index for index, level in enumerate(levels) if level[0][1]),
        num_heads=layout.num_heads,
        num_groups=layout.norm_groups,
        num_positions=positions if positions > 1 else UNetConfig.num_positions,
        deepest_skip="published",
    )


def _environment(shapes: Shapes, name: str, unet: UNetConfig) -> EnvironmentConfig:
    root = f"{UNET_ROOT}{name}."
    encoder, positions = f"{root}connecters_out", _positions(shapes, name, root)
    residual = "0.0" if MODALITIES[UNETS[name]].kind == "image" else "0"
    last = _count(shapes, rf"{re.escape(encoder)}\.(\d+)\.") - 1
    stem = f"{encoder}.0.0.weight"
    base = _times(stem, _shape(shapes, stem)[0], positions)
    # Residual blocks are the odd ones of the encoder's blocks.
    widths = [(key := f"{encoder}.{i}.{residual}.emb_layers.1.bias", _shape(shapes, key)[0]) for i in range(1, last, 2)]
    return EnvironmentConfig(
        dim=_shape(shapes, f"{encoder}.{last}.2.weight")[0],
        base_channels=base,
        multipliers=tuple(_times(key, width, base * positions) for key, width in widths),
        time_channels=unet.base_channels,
    )


# ---- autoencoders and prompt encoders ------------------------------------------------------------------------------
def _vae(shapes: Shapes, layout: LayoutConfig) -> ImageAutoencoderConfig:
    down = "autokl.encoder.down"
    levels = _count(shapes, r"autokl\.encoder\.down\.(\d+)\.")
    return ImageAutoencoderConfig(
        in_channels=_channels(_shape(shapes, "autokl.encoder.conv_in.weight")[1]),
        channels=tuple(_shape(shapes, f"{down}.{level}.block.0.conv1.weight")[0] for level in range(levels)),
        layers_per_block=_count(shapes, r"autokl\.encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=_shape(shapes, "autokl.post_quant_conv.weight")[0],
        norm_num_groups=layout.vae_norm_groups,
        mid_attention="autokl.encoder.mid.attn_1.q.weight" in shapes,
    )


def _channels(number: int) -> Any:
    if number not in (1, 3):
        raise CheckpointError(f"autokl takes images of {number} channels", expected="1 or 3")
    return number


def _optimus(shapes: Shapes, layout: LayoutConfig) -> ReportAutoencoderConfig:
    bert, gpt2 = "optimus.encoder", "optimus.decoder.transformer"
    vocabulary, width = _shape(shapes, f"{bert}.embeddings.word_embeddings.weight")
    decoder_vocabulary, decoder_width = _shape(
        shapes, f"{gpt2}.wte.weight" if f"{gpt2}.wte.weight" in shapes else "optimus.decoder.lm_head.weight"
    )
    # Fields that follow the default (4 x width, the encoder's size) stay None, as in configs/models/medcodi-m.yaml.
    encoder_positions = _shape(shapes, f"{bert}.embeddings.position_embeddings.weight")[0]
    decoder_positions = _shape(shapes, f"{gpt2}.wpe.weight")[0]
    encoder_ffn = _shape(shapes, f"{bert}.encoder.layer.0.intermediate.dense.weight")[0]
    decoder_ffn = _shape(shapes, f"{gpt2}.h.0.mlp.c_fc.weight")[1]
    heads = _heads(layout.report_heads, width, "--report-heads")
    decoder_heads = _heads(layout.decoder_heads, decoder_width, "--decoder-heads")
    return ReportAutoencoderConfig(
        latent_dim=_shape(shapes, f"{bert}.linear.weight")[0] // 2,
        width=width,
        decoder_width=decoder_width if decoder_width != width else None,
        encoder_ffn=encoder_ffn if encoder_ffn != 4 * width else None,
        decoder_ffn=decoder_ffn if decoder_ffn != 4 * decoder_width else None,
        encoder_layers=_count(shapes, r"optimus\.encoder\.encoder\.layer\.(\d+)\."),
        decoder_layers=_count(shapes, r"optimus\.decoder\.transformer\.h\.(\d+)\."),
        heads=heads,
        decoder_heads=decoder_heads if decoder_heads != heads else None,
        max_length=min(layout.max_report_tokens, encoder_positions, decoder_positions - 1),
        encoder_positions=encoder_positions,
        decoder_positions=decoder_positions,
        encoder_vocab_size=vocabulary,
        decoder_vocab_size=decoder_vocabulary,
        pooling="first",
        posterior_bias=False,
    )


def _heads(num_heads: int | None, width: int, option: str) -> int:
    if num_heads is None and width % 64:
        raise CheckpointError(
            f"a width of {width} has no heads of 64 channels", expected="the number of heads", fix=f"give {option}"
        )
    return num_heads or width // 64


def _text_tower(shapes: Shapes, layout: LayoutConfig) -> TextTowerConfig:
    text = "clip.model.text_model"
    vocabulary, width = _shape(shapes, f"{text}.embeddings.token_embedding.weight")
    return TextTowerConfig(
        context_length=_shape(shapes, f"{text}.embeddings.position_embedding.weight")[0],
        width=width,
        layers=_count(shapes, r"clip\.model\.text_model\.encoder\.layers\.(\d+)\."),
        heads=_heads(layout.text_heads, width, "--text-heads"),
        mlp_ratio=_shape(shapes, f"{text}.encoder.layers.0.mlp.fc1.weight")[0] / width,
        causal=True,
        vocab_size=vocabulary,
        activation="quick_gelu",
    )


def _image_tower(shapes: Shapes, layout: LayoutConfig) -> ImageTowerConfig:
    vision = "clip.model.vision_model"
    width, _, patch, _ = _shape(shapes, f"{vision}.embeddings.patch_embedding.weight")
    # The first position is the class token's.
    num_patches = _shape(shapes, f"{vision}.embeddings.position_embedding.weight")[0] - 1
    return ImageTowerConfig(
        image_size=patch * round(num_patches**0.5),
        patch_size=patch,
        width=width,
        layers=_count(shapes, r"clip\.model\.vision_model\.encoder\.layers\.(\d+)\."),
        heads=_heads(layout.image_heads, width, "--image-heads"),
        mlp_ratio=_shape(shapes, f"{vision}.encoder.layers.0.mlp.fc1.weight")[0] / width,
        stem="patch",
        activation="quick_gelu",
        mean=_MEAN,
        std=_STD,
        preprocessing="clip",
    )
