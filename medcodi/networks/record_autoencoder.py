"""Records <-> a small latent vector: a variational autoencoder over fields, any of them missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcodi.config import config
from medcodi.networks.autoencoder import Autoencoder, draw, kl_to_standard_normal
from medcodi.networks.record_layers import FieldTokens
from medcodi.record import Record, RecordConfig, RecordValue


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
