"""Layers of the report denoiser: Versatile Diffusion's fully connected residual UNet on a latent vector.

The vector is folded into ``[B, C, S, 1]`` (S positions, 4 in the paper), so that the UNet's block table and its attention apply
unchanged; residual blocks and changes of resolution are linear maps over all ``C * S`` numbers (Xu et al., "Versatile
Diffusion", 2022, section 3.3).
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.networks.image_layers import Normed
from medcodi.networks.unet import UNetConfig


class VectorResidualBlock(nn.Module):
    """GroupNorm, SiLU, linear, twice, over channels and positions together, with the time added between."""

    def __init__(
        self, channels_in: int, channels_out: int, *, time_dim: int, num_groups: int, num_positions: int
    ) -> None:
        super().__init__()
        width_in, width_out = channels_in * num_positions, channels_out * num_positions
        self.num_positions = num_positions
        self.norm1 = nn.GroupNorm(num_groups, width_in, eps=1e-5)
        self.linear1 = nn.Linear(width_in, width_out)
        self.time = nn.Linear(time_dim, width_out)
        self.norm2 = nn.GroupNorm(num_groups, width_out, eps=1e-5)
        self.linear2 = nn.Linear(width_out, width_out)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)
        self.skip = nn.Identity() if width_in == width_out else nn.Linear(width_in, width_out)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``x`` ``[B, C, S, 1]``, ``time`` ``[B, T]`` -> ``[B, C', S, 1]``."""
        flat = rearrange(x, "b c s 1 -> b (c s)")
        h = self.linear1(F.silu(self.norm1(flat))) + self.time(F.silu(time))
        out = self.skip(flat) + self.linear2(F.silu(self.norm2(h)))
        return rearrange(out, "b (c s) -> b c s 1", s=self.num_positions)


class _Folded(nn.Module):
    """A linear map over all channels and positions of a folded vector."""

    def __init__(self, layer: nn.Linear, num_positions: int | None) -> None:
        super().__init__()
        self.layer, self.num_positions = layer, num_positions

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...]`` -> ``[B, C, S, 1]``, or ``[B, width]`` where the result is not folded again."""
        out = self.layer(x.flatten(1))
        return out if self.num_positions is None else rearrange(out, "b (c s) -> b c s 1", s=self.num_positions)


class VectorLayers:
    """:class:`medcodi.networks.unet.Layers` of latent vectors ``[B, d]``."""

    def __init__(self, latent_shape: tuple[int, ...], config: UNetConfig) -> None:
        (self.latent_dim,) = latent_shape
        self.num_positions, self.num_groups = config.num_positions, config.num_groups

    def grid(self, level: int) -> tuple[int, int]:
        """The positions of the folded vector, at every level."""
        return self.num_positions, 1

    def _linear(self, width_in: int, width_out: int, *, fold: bool = True) -> nn.Module:
        return _Folded(nn.Linear(width_in, width_out), self.num_positions if fold else None)

    def stem(self, channels: int) -> nn.Module:
        """Vector -> ``[B, channels, S, 1]``."""
        return self._linear(self.latent_dim, channels * self.num_positions)

    def residual(self, channels_in: int, channels_out: int, time_dim: int) -> nn.Module:
        """A residual block that is given the time."""
        return VectorResidualBlock(
            channels_in, channels_out, time_dim=time_dim, num_groups=self.num_groups, num_positions=self.num_positions
        )

    def down(self, channels: int) -> nn.Module:
        """A linear map in place of a step down: a vector has no resolution."""
        return self._linear(channels * self.num_positions, channels * self.num_positions)

    def up(self, channels: int) -> nn.Module:
        """A linear map in place of a step up."""
        return self.down(channels)

    def head(self, channels: int) -> nn.Module:
        """``[B, channels, S, 1]`` -> vector."""
        return self.pool(channels, self.latent_dim)

    def pool(self, channels: int, out: int) -> nn.Module:
        """``[B, channels, S, 1]`` -> ``[B, out]``."""
        return Normed(channels, self.num_groups, self._linear(channels * self.num_positions, out, fold=False))
