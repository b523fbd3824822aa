"""Environment encoders V_m: a noisy latent at t -> one unit vector in the space where denoisers exchange information."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.config import config
from medcodi.networks.unet import Layers, TimeEmbedding


@config
class EnvironmentConfig:
    """Environment of a denoiser: how it hears the others, and the size of the environment encoders; the defaults are MedCoDi-M's."""

    # vector: a unit vector of an encoder V_k, the paper's. features: the fellow denoisers' maps (networks.hearing), which need
    # no encoder: the other fields are not used.
    kind: Literal["vector", "features"] = "vector"
    dim: int = 1280  # length of the environment vector
    base_channels: int = 160  # channels of the stem
    multipliers: tuple[int, ...] = (2, 4, 8)  # channels of each level, in base_channels
    time_channels: int | None = None  # width of the time's sinusoid; None: base_channels. MedCoDi-M: as its denoisers


class EnvironmentEncoder(nn.Module):
    """V_m of one modality, made of the layers of its denoiser; it is not given the prompts."""

    def __init__(self, layers: Layers, config: EnvironmentConfig) -> None:
        super().__init__()
        time_channels = config.time_channels or config.base_channels
        time_dim = 4 * time_channels
        # Stem, then a residual block per level with a step down between, then norm, projection and mean over positions.
        self.time = TimeEmbedding(time_channels)
        self.stem = layers.stem(config.base_channels)
        self.residuals, self.downs = nn.ModuleList(), nn.ModuleList()
        current = config.base_channels
        for level, multiplier in enumerate(config.multipliers):
            width = config.base_channels * multiplier
            self.downs.append(layers.down(current) if level else nn.Identity())
            self.residuals.append(layers.residual(current, width, time_dim))
            current = width
        self.pool = layers.pool(current, config.dim)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """``z`` ``[B, *latent_shape]``, ``t`` ``[B]`` -> unit vectors ``[B, dim]``."""
        time = self.time(t)
        h = self.stem(z)
        for down, residual in zip(self.downs, self.residuals, strict=True):
            h = residual(down(h), time)
        return F.normalize(self.pool(h), dim=-1)
