"""Networks of records: fields -> tokens, the prompt tower that reads them, and the autoencoder into a small latent vector.

The autoencoder is a variational one over fields, any of them missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import Transformer
from torch import Tensor, nn

from medcodi.config import config
from medcodi.networks.autoencoder import Autoencoder, draw, kl_to_standard_normal
from medcodi.record import Record, RecordConfig, RecordValue


class FieldTokens(nn.Module):
    """Records -> one token ``[B, F, W]`` for each of F fields; a learnt token stands for a missing value."""

    mean: Tensor
    std: Tensor

    def __init__(self, schema: RecordConfig, width: int) -> None:
        super().__init__()
        self.schema = schema
        fields = schema.fields.values()
        # Mean and standard deviation of each numeric field in the training split, on its own scale; 0 and 1 until they are fitted.
        self.register_buffer("mean", torch.zeros(len(fields)))
        self.register_buffer("std", torch.ones(len(fields)))
        self.numbers = nn.Parameter(torch.randn(len(fields), width) * width**-0.5)  # direction of a field's value
        self.fields = nn.Parameter(torch.randn(len(fields), width) * width**-0.5)  # what says which field it is
        self.missing = nn.Parameter(torch.randn(len(fields), width) * width**-0.5)
        self.categories = nn.ModuleDict(
            {name: nn.Embedding(len(field.values), width) for name, field in schema.fields.items() if field.values}
        )
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, values: Tensor, known: Tensor) -> Tensor:
        """Normalised values ``[B, F]`` (categories: their index) and bool ``[B, F]`` -> tokens ``[B, F, W]``."""
        tokens = values.to(self.numbers)[..., None] * self.numbers
        for index, (name, field) in enumerate(self.schema.fields.items()):
            if field.values:
                tokens[:, index] = self.categories[name](values[:, index].long())
        tokens = tokens + self.fields
        tokens = torch.where(known[..., None], tokens, self.missing)
        return tokens + self.mlp(tokens)

    @torch.no_grad()
    def fit(self, records: Sequence[Record]) -> None:
        """Take mean and standard deviation from records of the training split; a field without two values keeps 0 and 1."""
        values, known = raw_values(self.schema, records)
        for index, field in enumerate(self.schema.fields.values()):
            column = values[known[:, index], index]
            if field.is_numeric and len(column) > 1:
                self.mean[index] = column.mean()
                self.std[index] = column.std().clamp(min=1e-3 * max(1.0, abs(float(column.mean()))))

    def tensors(self, records: Sequence[Record]) -> tuple[Tensor, Tensor]:
        """Normalised values float32 ``[B, F]`` (0 where missing; categories: their index), and bool ``[B, F]``."""
        values, known = (part.to(self.mean.device) for part in raw_values(self.schema, records))
        return torch.where(known, (values - self.mean.float()) / self.std.float(), 0.0), known


def fit_records(model: nn.Module, records: Sequence[Record]) -> None:
    """Fit the normalisation of numbers in every part of a model, tower and autoencoder, to records of the training split."""
    for module in model.modules():
        if isinstance(module, FieldTokens):
            module.fit(records)


def raw_values(schema: RecordConfig, records: Sequence[Record]) -> tuple[Tensor, Tensor]:
    """Values float32 ``[B, F]`` on each field's scale (categories: their index; missing: 0), and bool ``[B, F]`` where known.

    Raises:
        DataError: If a field is unknown to the schema, or a value invalid.
    """
    numbers = torch.tensor([schema.numbers(record) for record in records], dtype=torch.float32)
    numbers = numbers.reshape(len(records), len(schema.fields))  # [0, F] of no records
    known = ~numbers.isnan()
    return torch.where(known, numbers, 0.0), known


@config
class RecordTowerConfig:
    """Size of the record tower."""

    width: int = 128  # of a field's token
    layers: int = 2  # of the transformer
    heads: int = 4  # of its attention
    mlp_ratio: float = 4.0  # width of its MLPs, in widths

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads or self.layers < 1:
            raise ValueError(f"width = {self.width} must be a multiple of heads = {self.heads}, layers at least 1")


class RecordTower(nn.Module):
    """Records -> pooled ``[B, D]`` (a class token) and tokens ``[B, 1 + F, D]``, the missing fields masked."""

    def __init__(self, config: RecordTowerConfig, schema: RecordConfig, embed_dim: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.tokens = FieldTokens(schema, config.width)
        self.class_token = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.transformer = Transformer(config.width, config.layers, config.heads, config.mlp_ratio)
        self.ln_final = nn.LayerNorm(config.width)
        self.projection = nn.Parameter(torch.randn(config.width, embed_dim) * config.width**-0.5)

    def forward(self, records: Sequence[Record]) -> tuple[Tensor, Tensor, Tensor]:
        """-> pooled ``[B, D]``, tokens ``[B, 1 + F, D]``, bool mask ``[B, 1 + F]``: the class token is always there."""
        values, known = self.tokens.tensors(records)
        tokens = self.tokens(values, known)
        class_token = self.class_token.expand(len(tokens), 1, -1)
        mask = torch.cat([known.new_ones(len(known), 1), known], dim=1)  # [B, 1 + F]
        # Missing fields are not attended to.
        offsets = torch.zeros(mask.shape, dtype=tokens.dtype, device=mask.device).masked_fill(~mask, -math.inf)
        offsets = offsets.repeat_interleave(self.heads, dim=0)[:, None].expand(-1, mask.shape[1], -1)
        x = self.transformer(torch.cat([class_token, tokens], dim=1), attn_mask=offsets)
        projected = self.ln_final(x) @ self.projection
        return projected[:, 0], projected, mask


# ---- the autoencoder -------------------------------------------------------------------------------------------------
@config
class RecordAutoencoderConfig:
    """Size of the record autoencoder."""

    latent_dim: int = 32  # d of the latent vector
    width: int = 128  # of a field's token

    def build(self, schema: RecordConfig) -> RecordAutoencoder:
        """The autoencoder, untrained."""
        return RecordAutoencoder(self, schema)


@dataclass(frozen=True)
class RecordLoss:
    """Losses of B records: each is ``[B]``, averaged over the fields that a record holds."""

    loss: Tensor
    numbers: Tensor  # squared error of normalised numbers
    categories: Tensor  # cross-entropy, nats
    kl: Tensor  # nats, summed over the latent


class RecordAutoencoder(Autoencoder):
    """Record <-> vector ``[B, d]``. A decoded record has every field of the schema."""

    def __init__(self, config: RecordAutoencoderConfig, schema: RecordConfig) -> None:
        super().__init__((config.latent_dim,))
        self.config, self.schema = config, schema
        fields, width = schema.fields, config.width
        self.tokens = FieldTokens(schema, width)
        to_posterior = nn.Linear(2 * width, 2 * config.latent_dim)
        with torch.no_grad():
            to_posterior.bias[config.latent_dim :] = -6.0  # a narrow posterior at the start
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(len(fields) * width, 2 * width), nn.GELU(), nn.LayerNorm(2 * width), to_posterior
        )
        # One output for each number, one for each category.
        self.sizes = [max(1, len(field.values)) for field in fields.values()]
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_dim, 2 * width),
            nn.GELU(),
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, sum(self.sizes)),
        )

    def encode(self, values: Sequence[Record]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior of the unscaled latent: two float32 tensors ``[B, d]``."""
        return self._posterior(*self.tokens.tensors(values))

    def _posterior(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.encoder(self.tokens(values, known)).float().chunk(2, dim=-1)
        return mean, logvar.clamp(-20.0, 5.0)

    def decoder_parts(self) -> list[nn.Module]:
        """The decoder."""
        return [self.decoder]

    def reconstruction_loss(
        self, records: Sequence[Record], noise: Tensor | None = None, *, beta: float = 0.0
    ) -> RecordLoss:
        """The negative evidence lower bound of each record, over the fields that it holds.

        Args:
            records: B records.
            noise: Standard normal ``[B, d]`` that samples the posterior; None takes its mean.
            beta: Weight of the KL.
        """
        values, known = self.tokens.tensors(records)
        mean, logvar = self._posterior(values, known)
        outputs = self.decoder(draw(mean, logvar, noise).to(self.tokens.numbers)).float().split(self.sizes, dim=-1)

        # Squared error of numbers, cross-entropy of categories; missing fields cost nothing.
        numbers, categories = torch.zeros_like(known, dtype=torch.float32), torch.zeros_like(known, dtype=torch.float32)
        for index, (output, field) in enumerate(zip(outputs, self.schema.fields.values(), strict=True)):
            if field.values:
                categories[:, index] = F.cross_entropy(output, values[:, index].long(), reduction="none")
            else:
                numbers[:, index] = (output[:, 0] - values[:, index]).square()
        num_fields = known.sum(1).clamp(min=1)
        number, category = ((part * known).sum(1) / num_fields for part in (numbers, categories))
        kl = kl_to_standard_normal(mean, logvar).sum(1)
        return RecordLoss(loss=number + category + beta * kl / num_fields, numbers=number, categories=category, kl=kl)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> list[dict[str, RecordValue]]:
        """Records with every field from scaled latents ``[B, d]``: numbers within their plausible range, the likeliest categories."""
        outputs = self.decoder(self.unscaled(latent).to(self.tokens.numbers)).float().split(self.sizes, dim=-1)
        columns: list[list[RecordValue]] = []
        for index, (output, field) in enumerate(zip(outputs, self.schema.fields.values(), strict=True)):
            if field.values:
                columns.append([field.values[choice] for choice in output.argmax(-1).tolist()])
                continue
            assert field.low is not None and field.high is not None
            number = output[:, 0].double() * self.tokens.std[index].double() + self.tokens.mean[index].double()
            number = (number.exp() if field.scale == "log" else number).clamp(field.low, field.high)
            columns.append([round(value, field.digits) for value in number.tolist()])
        return [dict(zip(self.schema.fields, row, strict=True)) for row in zip(*columns, strict=True)]
