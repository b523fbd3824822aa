"""What image denoisers and environment encoders are made of; the time's embedding serves vectors too."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.networks.convolution import Convolution


class TimeEmbedding(nn.Module):
    """Timestep -> vector: sinusoid (cosines first, max period 10,000), linear, SiLU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.in_proj = nn.Linear(channels, 4 * channels)
        self.out_proj = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        """``t`` ``[B]`` -> ``[B, 4 * channels]``."""
        half = self.channels // 2
        frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
        angles = t[:, None].float() * frequencies
        wave = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.in_proj.weight.dtype)
        return self.out_proj(F.silu(self.in_proj(wave)))


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the time added between; 1x1 on the skip where the width changes."""

    def __init__(self, channels_in: int, channels_out: int, *, time_dim: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, channels_in, eps=1e-5)
        self.conv1 = Convolution(channels_in, channels_out)
        self.time = nn.Linear(time_dim, channels_out)
        self.norm2 = nn.GroupNorm(num_groups, channels_out, eps=1e-5)
        self.conv2 = Convolution(channels_out, channels_out)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias) if self.conv2.bias is not None else None
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``x`` ``[B, C, H, W]``, ``time`` ``[B, T]`` -> ``[B, C', H, W]``."""
        reuse = not torch.is_grad_enabled()  # of memory that nobody will ask for again
        h = self.conv1(F.silu(self.norm1(x), inplace=reuse))
        bias = self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h.add_(bias) if reuse else h + bias), inplace=reuse))
        return h.add_(self.skip(x)) if reuse else self.skip(x) + h


class Upsample(nn.Module):
    """Nearest, times two, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, 2H, 2W]``."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Normed(nn.Sequential):
    """GroupNorm, SiLU, then a layer."""

    def __init__(self, channels: int, num_groups: int, layer: nn.Module) -> None:
        super().__init__(nn.GroupNorm(num_groups, channels, eps=1e-5), nn.SiLU(), layer)


class MeanPool(nn.Module):
    """Mean over the positions of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C]``."""
        return x.mean(dim=(2, 3))
