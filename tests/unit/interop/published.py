"""The published layout, written from its description: keys and shapes of a checkpoint of any size, and such checkpoints.

Nothing here is shared with the importer, which reads the layout the other way round. At full size it gives exactly the keys
of the released checkpoint (``test_xgem_keys`` holds the two against each other).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.golden.xgem.weights import noise_schedule
from tests.unit.interop.published_unets import DEAD, MINI, Pairs, Sizes, Unet, layer, temporal

Shapes = dict[str, tuple[int, ...]]
# What shapes of a MINI checkpoint do not tell, and its image size.
MINI_LAYOUT = {
    "image_size": 16,
    "num_heads": 2,
    "norm_groups": 4,
    "vae_norm_groups": 4,
    **dict.fromkeys(("text_heads", "image_heads", "report_heads", "decoder_heads"), 2),
}


def vae_residual(name: str, inside: int, outside: int) -> Pairs:
    """A residual block of the image autoencoder."""
    yield from layer(f"{name}.norm1", inside)
    yield from layer(f"{name}.conv1", outside, inside, 3, 3)
    yield from layer(f"{name}.norm2", outside)
    yield from layer(f"{name}.conv2", outside, outside, 3, 3)
    if inside != outside:
        yield from layer(f"{name}.nin_shortcut", outside, inside, 1, 1)


def vae(sizes: Sizes) -> Pairs:
    """The image autoencoder."""
    widths, deepest = sizes.vae, sizes.vae[-1]
    for side in ("encoder", "decoder"):
        yield from vae_residual(f"{side}.mid.block_1", deepest, deepest)
        yield from vae_residual(f"{side}.mid.block_2", deepest, deepest)
        yield from layer(f"{side}.mid.attn_1.norm", deepest)
        for part in ("q", "k", "v", "proj_out"):
            yield from layer(f"{side}.mid.attn_1.{part}", deepest, deepest, 1, 1)
    yield from layer("encoder.conv_in", widths[0], 3, 3, 3)
    width = widths[0]
    for level, wider in enumerate(widths):
        for block in range(sizes.vae_blocks):
            yield from vae_residual(f"encoder.down.{level}.block.{block}", width, wider)
            width = wider
        if level < len(widths) - 1:
            yield from layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from layer("encoder.norm_out", width)
    yield from layer("encoder.conv_out", 8, width, 3, 3)
    yield from layer("decoder.conv_in", width, 4, 3, 3)
    for name in (
        "decoder.mid.video_att",
        *(f"decoder.up.{lv}.video_attn.{b}" for lv in range(1, len(widths)) for b in range(sizes.vae_blocks + 1)),
    ):
        for index in (0, 2):
            for what in ("weight", "bias"):
                yield f"{name}.frameshiftblock.out_layers.{index}.{what}", DEAD
    for level in reversed(range(len(widths))):
        for block in range(sizes.vae_blocks + 1):
            yield from vae_residual(f"decoder.up.{level}.block.{block}", width, widths[level])
            width = widths[level]
        if level:
            yield from layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from layer("decoder.norm_out", width)
    yield from layer("decoder.conv_out", 3, width, 3, 3)
    yield from layer("quant_conv", 8, 8, 1, 1)
    yield from layer("post_quant_conv", 4, 4, 1, 1)


def optimus(sizes: Sizes) -> Pairs:
    """The report autoencoder."""
    width, layers, inner, tokens, positions = sizes.bert
    for name, count in (("word", tokens), ("position", positions), ("token_type", 2)):
        yield f"encoder.embeddings.{name}_embeddings.weight", (count, width)
    yield from layer("encoder.embeddings.LayerNorm", width)
    for index in range(layers):
        place = f"encoder.encoder.layer.{index}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from layer(f"{place}.attention.{part}", width, width)
        yield from layer(f"{place}.attention.output.LayerNorm", width)
        yield from layer(f"{place}.intermediate.dense", inner, width)
        yield from layer(f"{place}.output.dense", width, inner)
        yield from layer(f"{place}.output.LayerNorm", width)
    yield from layer("encoder.pooler.dense", width, width)
    yield "encoder.linear.weight", (2 * sizes.latent_dim, width)
    width, layers, inner, tokens, positions = sizes.gpt2
    yield "decoder.transformer.wte.weight", (tokens, width)
    yield "decoder.transformer.wpe.weight", (positions, width)
    for index in range(layers):
        place = f"decoder.transformer.h.{index}"
        yield from layer(f"{place}.ln_1", width)
        yield from layer(f"{place}.ln_2", width)
        yield f"{place}.attn.bias", (1, 1, positions, positions)
        for part, inside, outside in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            yield f"{place}.{part}.weight", (inside, outside)
            yield f"{place}.{part}.bias", (outside,)
    yield from layer("decoder.transformer.ln_f", width)
    yield "decoder.transformer.linear.weight", (layers * width, sizes.latent_dim)
    yield "decoder.transformer.linear_emb.weight", (width, sizes.latent_dim)
    yield "decoder.lm_head.weight", (tokens, width)


def clip_layers(name: str, width: int, layers: int, inner: int) -> Pairs:
    """The blocks of a tower."""
    for index in range(layers):
        place = f"{name}.encoder.layers.{index}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from layer(f"{place}.self_attn.{part}", width, width)
        yield from layer(f"{place}.layer_norm1", width)
        yield from layer(f"{place}.layer_norm2", width)
        yield from layer(f"{place}.mlp.fc1", inner, width)
        yield from layer(f"{place}.mlp.fc2", width, inner)
        if name == "vision_model":
            yield from temporal(f"{place}.temporal_self_attn", frame_shift=False)


def clip(sizes: Sizes) -> Pairs:
    """Both towers."""
    yield "logit_scale", ()
    width, layers, inner, tokens, length = sizes.text
    yield "text_model.embeddings.position_ids", (1, length)
    yield "text_model.embeddings.token_embedding.weight", (tokens, width)
    yield "text_model.embeddings.position_embedding.weight", (length, width)
    yield from clip_layers("text_model", width, layers, inner)
    yield from layer("text_model.final_layer_norm", width)
    yield "text_projection.weight", (sizes.embed_dim, width)
    width, layers, inner, patch, side = sizes.vision
    yield "vision_model.embeddings.class_embedding", (width,)
    yield "vision_model.embeddings.position_ids", (1, side * side + 1)
    yield "vision_model.embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield "vision_model.embeddings.position_embedding.weight", (side * side + 1, width)
    yield from layer("vision_model.pre_layrnorm", width)
    yield from clip_layers("vision_model", width, layers, inner)
    yield from layer("vision_model.post_layernorm", width)
    yield "visual_projection.weight", (sizes.embed_dim, width)


def published_shapes(sizes: Sizes = Sizes()) -> Shapes:
    """Key -> shape of a checkpoint of these sizes."""
    shapes: Shapes = {name: (1000,) for name in noise_schedule()}
    for name in ("unet_frontal", "unet_text", "unet_lateral"):
        is_text = name == "unet_text"
        unet = Unet(sizes, sizes.positions if is_text else None, sizes.latent_dim if is_text else 4)
        shapes |= {f"model.diffusion_model.{name}.{key}": shape for key, shape in unet.pairs()}
    for root, part in (("autokl", vae), ("optimus", optimus), ("clip.model", clip)):
        shapes |= {f"{root}.{key}": shape for key, shape in part(sizes)}
    return shapes


def published_checkpoint(sizes: Sizes = MINI, seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint with random weights; its video layers hold NaN, which must not matter."""
    generator, schedule, tensors = torch.Generator().manual_seed(seed), noise_schedule(), {}
    for key, shape in published_shapes(sizes).items():
        if key in schedule:
            tensors[key] = torch.from_numpy(schedule[key].copy())
        elif key.endswith("position_ids"):
            tensors[key] = torch.arange(shape[-1]).reshape(shape)
        elif key.endswith(".attn.bias"):
            tensors[key] = torch.ones(shape).tril()
        elif shape == DEAD:
            tensors[key] = torch.full(shape, float("nan"))
        else:
            spread = 1 / float(np.sqrt(max(np.prod(shape[1:], dtype=np.int64), 1)))
            tensors[key] = torch.randn(shape, generator=generator) * spread
    tensors["optimus.decoder.lm_head.weight"] = tensors["optimus.decoder.transformer.wte.weight"].clone()
    return tensors


def sparse_checkpoint(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A safetensors file of these shapes that takes no room on disk: zeros, but for what is checked."""
    schedule = noise_schedule()
    header, start, written = {}, 0, {}
    for key, shape in shapes.items():
        dtype, width = ("I64", 8) if key.endswith("position_ids") else ("F32", 4)
        end = start + width * int(np.prod(shape, dtype=np.int64))
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        if key in schedule:
            written[start] = schedule[key].tobytes()
        elif key.endswith("position_ids"):
            written[start] = np.arange(shape[-1], dtype=np.int64).tobytes()
        elif key.endswith(".attn.bias"):
            written[start] = np.tril(np.ones(shape, np.float32)).tobytes()
        start = end
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for offset, values in written.items():
            file.seek(8 + len(head) + offset)
            file.write(values)
        file.truncate(8 + len(head) + start)
    return path
