"""Base of both autoencoders: a posterior, and a latent scaled to the unit variance that diffusion expects."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medcodi.errors import CheckpointError


class Autoencoder(nn.Module):
    """Modality <-> its diffusion latent ``(z - shift) * factors``, of shape ``latent_shape``.

    Both buffers are stored with the weights; the ``autoencode`` stage measures them on data at its end.
    """

    scale: Tensor  # scalar, 1 until it is set
    shift: Tensor  # one value per channel, 0 until it is set

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_shape = latent_shape
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(latent_shape[0], *(1 for _ in latent_shape[1:])))

    def encode(self, values: Any) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior of the unscaled latent: two tensors ``[B, *latent_shape]``."""
        raise NotImplementedError

    def decode(self, latent: Tensor) -> Any:
        """Values of the modality from scaled latents ``[B, *latent_shape]``."""
        raise NotImplementedError

    def decoder_parts(self) -> list[nn.Module]:
        """The modules that only :meth:`decode` needs."""
        raise NotImplementedError

    def latent(self, values: Any, noise: Tensor | None = None) -> Tensor:
        """Scaled latents float32 ``[B, *latent_shape]``; ``noise`` like them samples the posterior, None takes its mean."""
        mean, logvar = self.encode(values)
        return (draw(mean, logvar, noise) - self.shift) * self.factors

    def unscaled(self, latent: Tensor) -> Tensor:
        """The unscaled latent z of a scaled one."""
        return latent / self.factors + self.shift

    @property
    def factors(self) -> Tensor:
        """Factors of ``z - shift``: the scale, or one for each channel."""
        return self.scale

    @torch.no_grad()
    def set_scale(self, value: float | Tensor, shift: float | Tensor = 0.0) -> None:
        """Set the scale (1 / standard deviation of the unscaled latents) and the shift (their mean, or one per channel).

        Raises:
            CheckpointError: If the scale is not a positive finite number.
        """
        if not (math.isfinite(float(value)) and float(value) > 0):
            raise CheckpointError(
                f"latent scale {float(value)}",
                expected="a positive number",
                fix="train the autoencoder: its latents do not vary",
            )
        self.scale.fill_(float(value))
        self.shift.copy_(
            torch.as_tensor(shift, dtype=self.shift.dtype).reshape(-1, *self.shift.shape[1:]).expand_as(self.shift)
        )


def draw(mean: Tensor, logvar: Tensor, noise: Tensor | None) -> Tensor:
    """A sample of the posterior; its mean without noise."""
    return mean if noise is None else mean + torch.exp(0.5 * logvar) * noise.to(mean)


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, element by element (Kingma and Welling, 2014, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)
