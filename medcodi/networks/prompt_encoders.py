"""Prompts -> the shared latent space: one image tower for every view, one text tower (``open_clip``), a small record tower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat
from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
from PIL import Image
from pydantic import model_validator
from torch import Tensor, nn

from medcodi.config import config
from medcodi.errors import ConfigError, PromptError
from medcodi.modality import Kind
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.networks.records import RecordTower, RecordTowerConfig
from medcodi.networks.tokenizer import ReportTokenizer, Truncation, embedding_size
from medcodi.record import Record, RecordConfig
from medcodi.transfer import to_device

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP (Radford et al., 2021, section 2.5)
_ACTIVATIONS = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


@config
class ImageTowerConfig:
    """Size of the image tower. CLIP ViT-L/14: 224, 14, 1024, 24, 16, patch stem, quick_gelu."""

    image_size: int | None = None  # images of other sizes are resized to it; None: the model's
    patch_size: int = 16  # pixels a side of one token
    width: int = 192  # channels of a token
    layers: int = 4  # transformer blocks
    heads: int = 4  # attention heads of a block
    mlp_ratio: float = 4.0  # width of the feed-forward layers, in widths
    stem: Literal["patch", "conv"] = "patch"  # conv: stride-2 convolutions to the same grid; learns faster from little
    activation: Literal["gelu", "quick_gelu"] = "gelu"  # of the feed-forward layers
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of the pixels in each channel, subtracted
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of the pixels in each channel, divided by
    # clip: 8 bits, short side resized by PIL, centre crop, as CLIP preprocesses; float: antialiased, whole image, no rounding.
    preprocessing: Literal["float", "clip"] = "float"

    @model_validator(mode="after")
    def _check(self) -> ImageTowerConfig:
        if self.patch_size < 1:
            raise ValueError(f"patch_size = {self.patch_size} must be positive")
        if not all(map(math.isfinite, (*self.mean, *self.std, self.mlp_ratio))) or min(*self.std, self.mlp_ratio) <= 0:
            raise ValueError(
                f"mean {self.mean}, std {self.std}, mlp_ratio {self.mlp_ratio}: must be finite, the last two > 0"
            )
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width = {self.width} must be a multiple of heads = {self.heads}")
        if self.stem == "conv" and (self.patch_size & (self.patch_size - 1) or self.width % self.patch_size):
            raise ValueError(
                f"stem = 'conv' needs a patch_size that is a power of 2 and divides width, not {self.patch_size}"
            )
        return self


@config
class TextTowerConfig:
    """Size of the text tower. CLIP ViT-L/14: 77, 768, 12, 12, causal, quick_gelu."""

    context_length: int = 128  # tokens, with beginning and end; longer reports are cut
    width: int = 192  # channels of a token
    layers: int = 4  # transformer blocks
    heads: int = 4  # attention heads of a block
    mlp_ratio: float = 4.0  # width of the feed-forward layers, in widths
    causal: bool = True  # a token attends to those before it only
    vocab_size: int | None = None  # None: the tokenizer's
    activation: Literal["gelu", "quick_gelu"] = "gelu"  # of the feed-forward layers

    @model_validator(mode="after")
    def _check(self) -> TextTowerConfig:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} must be a multiple of heads = {self.heads}")
        if self.context_length < 2:
            raise ValueError(f"context_length = {self.context_length} must be at least 2")
        return self


@config
class PromptEncodersConfig:
    """Size of the shared space and of both towers."""

    embed_dim: int = 256  # D
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()

    def build(
        self, tokenizer: ReportTokenizer, image_size: int, record: tuple[RecordTowerConfig, RecordConfig] | None = None
    ) -> PromptEncoders:
        """The towers, untrained; the image tower's own ``image_size``, if set, overrides that of the model's images.

        Raises:
            ConfigError: If the size is not a multiple of the patch size.
        """
        size = self.image.image_size or image_size
        if size < self.image.patch_size or size % self.image.patch_size:
            raise ConfigError(
                f"image_size = {size} does not divide into patches of {self.image.patch_size}",
                expected=f"a multiple of {self.image.patch_size}",
                fix="change image_size, or prompt_encoders.image.patch_size",
            )
        return PromptEncoders(self, tokenizer, size, record)


def _conv_stem(width: int, patch_size: int) -> nn.Sequential:
    """Stride-2 convolutions ``[B, 3, H, W] -> [B, width, H / p, W / p]`` (Xiao et al., 2021, arXiv 2106.14881)."""
    layers: list[nn.Module] = []
    channels, num_halvings = 3, patch_size.bit_length() - 1
    for level in range(num_halvings):
        wider = width >> (num_halvings - 1 - level)
        layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, wider), nn.GELU()]
        channels = wider
    return nn.Sequential(*layers, nn.Conv2d(channels, width, 1))


class _Clamped(torch.autograd.Function):
    """Clamp; the gradient is 1, but 0 where a descent along it would leave the interval."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.interval = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (value,), (low, high), gradient = ctx.saved_tensors, ctx.interval, grad_outputs[0]
        outward = ((value >= high) & (gradient < 0)) | ((value <= low) & (gradient > 0))
        return gradient.masked_fill(outward, 0.0), None, None


class PromptEncoders(nn.Module):
    """The image tower, the text tower, the record tower where a model has records, and the temperature of their comparison."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: PromptEncodersConfig,
        tokenizer: ReportTokenizer,
        image_size: int,
        record: tuple[RecordTowerConfig, RecordConfig] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.tokenizer, self.embed_dim = config, tokenizer, config.embed_dim
        self.image_size = image_size  # of the image tower
        image, text = config.image, config.text
        self.image_tower: Any = VisionTransformer(
            image_size=image_size,
            patch_size=image.patch_size,
            width=image.width,
            layers=image.layers,
            heads=image.heads,
            mlp_ratio=image.mlp_ratio,
            output_dim=config.embed_dim,
            act_layer=_ACTIVATIONS[image.activation],
            output_tokens=True,
        )
        if image.stem == "conv":
            self.image_tower.conv1 = _conv_stem(image.width, image.patch_size)
        self.text_tower: Any = TextTransformer(
            context_length=text.context_length,
            vocab_size=embedding_size(text.vocab_size, tokenizer, "prompts"),
            width=text.width,
            layers=text.layers,
            heads=text.heads,
            mlp_ratio=text.mlp_ratio,
            output_dim=config.embed_dim,
            no_causal_mask=not text.causal,
            act_layer=_ACTIVATIONS[text.activation],
        )
        self.record_tower = None if record is None else RecordTower(*record, config.embed_dim)
        self.register_buffer("mean", torch.tensor(image.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image.std).view(1, 3, 1, 1), persistent=False)
        # The logarithm of the inverse temperature; losses use clamped_logit_scale().
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode(self, kind: Kind, values: Tensor | Sequence[str] | Sequence[Record]) -> PromptEncoding:
        """Encode images float32 ``[B, 1, H, W]`` in [0, 1], B texts, or B records.

        Image tokens are the class token, then the patches row by row; text tokens run from beginning to end; record tokens are
        the class token, then the fields.

        Raises:
            PromptError: If the values are not of that kind.
        """
        if kind == "image" and isinstance(values, Tensor) and values.ndim == 4 and values.shape[1] == 1:
            return self._encode_images(values)
        if kind == "text" and not isinstance(values, (str, Tensor)):
            return self._encode_texts([str(value) for value in values])
        if kind == "table" and self.record_tower is not None and not isinstance(values, (str, Tensor)):
            return _encoding(*self.record_tower([value for value in values if not isinstance(value, str)]))
        seen = f"a tensor {list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise PromptError(
            f"{seen} as {kind} prompts", expected="a tensor [B, 1, H, W] of images, a list of texts or of records"
        )

    @property
    def towers(self) -> dict[Kind, nn.Module]:
        """Kind -> its tower."""
        towers: dict[Kind, Any] = {"image": self.image_tower, "text": self.text_tower, "table": self.record_tower}
        return {kind: tower for kind, tower in towers.items() if tower is not None}

    def max_tokens(self, kind: Kind) -> int:
        """The most tokens a prompt of that kind can have."""
        grid = self.image_size // self.config.image.patch_size
        num_fields = 0 if self.record_tower is None else len(self.record_tower.tokens.schema.fields)
        return {"image": grid * grid + 1, "text": self.config.text.context_length, "table": num_fields + 1}[kind]

    def truncation(self, text: str) -> Truncation | None:
        """How much of a text prompt the text tower reads; None: all of it."""
        return self.tokenizer.truncation(text, self.config.text.context_length)

    def null(self, kind: Kind, batch: int) -> PromptEncoding:
        """The null prompt, ``batch`` times: the all-zero image, the empty report, the empty record."""
        size = self.image_size
        image = torch.zeros(1, 1, size, size, device=self.logit_scale.device)
        empty: dict[Kind, Any] = {"image": image, "text": [""], "table": [{}]}
        return self.encode(kind, empty[kind]).expand(batch)

    def clamped_logit_scale(self) -> Tensor:
        """The logarithm of the inverse temperature, a scalar in [0, ln 100].

        The gradient never leads further out of the interval, so the parameter stays in it without being overwritten, which an
        engine that holds a copy of it would not notice.
        """
        return _Clamped.apply(self.logit_scale.float().reshape(()), 0.0, MAX_LOGIT_SCALE)

    def preprocess(self, images: Tensor) -> Tensor:
        """Images float32 ``[B, 1, H, W]`` in [0, 1] -> input of the image tower ``[B, 3, S, S]``."""
        size = self.image_size
        if self.config.image.preprocessing == "clip":
            images = torch.stack([_clip_resized(image[0], size) for image in images])[:, None].to(self.mean)
        elif images.shape[-2:] != (size, size):
            images = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(0.0, 1.0)
        return (images - self.mean) / self.std

    def _encode_images(self, images: Tensor) -> PromptEncoding:
        x = self.preprocess(images).to(self.image_tower.proj.dtype)
        pooled, patches = self.image_tower(x)  # [B, D], [B, HW, width]
        tokens = torch.cat([pooled.unsqueeze(1), patches @ self.image_tower.proj], dim=1)
        return _encoding(pooled, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def _encode_texts(self, texts: list[str]) -> PromptEncoding:
        tower, device = self.text_tower, self.logit_scale.device
        ids, mask = (to_device(part, device) for part in self.tokenizer.encode(texts, self.config.text.context_length))
        length = ids.shape[1]
        x = tower.token_embedding(ids) + tower.positional_embedding[:length]
        x = tower.ln_final(tower.transformer(x, attn_mask=self._attention_mask(mask, x.dtype)))
        tokens = x @ tower.text_projection  # [B, L, D]
        pooled = tokens[torch.arange(len(ids), device=device), mask.sum(1) - 1]  # at the end token
        return _encoding(pooled, tokens, mask)

    def _attention_mask(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Offsets of the attention logits: causal ``[L, L]``, or for padding ``[B * heads, L, L]``."""
        length = mask.shape[1]
        if self.config.text.causal:
            return self.text_tower.attn_mask[:length, :length].to(dtype)
        offsets = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -math.inf)  # [B, L]
        return repeat(offsets, "b l -> (b heads) n l", heads=self.config.text.heads, n=length)


def _clip_resized(image: Tensor, size: int) -> Tensor:
    """CLIP's preprocessing: one image ``[H, W]`` in [0, 1] -> ``[S, S]``, by 8 bits, bicubic, centre crop."""
    grey = Image.fromarray((image.float().cpu() * 255).to(torch.uint8).numpy())
    scale = size / min(grey.size)
    width, height = (max(size, int(side * scale)) for side in grey.size)
    left, top = (width - size) // 2, (height - size) // 2
    cropped = grey.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return torch.from_numpy(np.asarray(cropped, np.float32) / 255)


def _encoding(pooled: Tensor, tokens: Tensor, mask: Tensor) -> PromptEncoding:
    """Divide by the norm of the pooled vector (Versatile Diffusion does the same, arXiv 2211.08332)."""
    norm = pooled.float().norm(dim=-1, keepdim=True).clamp(min=1e-8)  # [B, 1]
    tokens = (tokens.float() / norm.unsqueeze(1)) * mask.unsqueeze(-1)
    return PromptEncoding(pooled.float() / norm, tokens, mask)
