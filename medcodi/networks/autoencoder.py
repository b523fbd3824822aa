"""What both autoencoders share: a posterior, and a latent scaled to the unit variance that diffusion expects."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medcodi.errors import CheckpointError


class Autoencoder(nn.Module):
    """Modality <-> its own diffusion latent.

    The scaled latent is ``(z - shift) * scale``. Both buffers are stored with the weights; the last step of the
    ``autoencode`` stage measures them on data.

    Attributes:
        latent_shape: Shape of one latent, without the batch.
        scale: Scalar buffer, 1 until it is set.
        shift: Buffer, one value per channel, 0 until it is set.
    """

    scale: Tensor
    shift: Tensor

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
        """The modules that :meth:`decode` alone needs."""
        raise NotImplementedError

    def latent(self, values: Any, noise: Tensor | None = None) -> Tensor:
        """The scaled latent.

        Args:
            values: B values of the modality.
            noise: Standard normal ``[B, *latent_shape]`` to sample the posterior with; None takes its mean.

        Returns:
            float32 ``[B, *latent_shape]``.
        """
        mean, logvar = self.encode(values)
        return (draw(mean, logvar, noise) - self.shift) * self.scale

    def unscaled(self, latent: Tensor) -> Tensor:
        """The decoder's own latent z from a scaled one."""
        return latent / self.scale + self.shift

    @torch.no_grad()
    def set_scale(self, value: float | Tensor, shift: float | Tensor = 0.0) -> None:
        """Set the scale factor and the shift.

        Args:
            value: 1 / standard deviation of the unscaled latents.
            shift: Their mean: one number, or one per channel.

        Raises:
            CheckpointError: If the factor is not a positive finite number.
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
    """A sample of the posterior, or its mean where there is no noise."""
    return mean if noise is None else mean + torch.exp(0.5 * logvar) * noise.to(mean)


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, element by element (Kingma and Welling, 2014, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)
