"""Layers of image denoisers and environment encoders: residual blocks, steps down and up, on maps ``[B, C, H, W]``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from medcodi.networks.unet import UNetConfig

# On a CPU, oneDNN rearranges the weights at every call, which costs more than the arithmetic where the map is small. Up to this
# many output positions a side, the same sums are computed as one matrix product, which takes the weights as they are stored. In
# these lines a microsecond counts, so they use torch's own views where einops would read better.
SMALL_SIDE = {"contiguous": 8, "channels_last": 16}
FOLDED_SIDE = 16  # input positions a side from which doubling and convolution are faster as one transposed convolution


class Convolution(nn.Conv2d):
    """3x3 convolution with padding 1, optionally of the map at twice its resolution (nearest); on a CPU by the fastest way."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1, doubled: bool = False) -> None:
        super().__init__(channels_in, channels_out, 3, stride=stride, padding=1)
        self.doubled = doubled

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H / stride, W / stride]``; doubled: ``[B, C', 2H, 2W]``."""
        if self.doubled:
            # Fake tensors are counted, and count as what a GPU runs.
            on_cpu = input.device.type == "cpu" and not isinstance(input, FakeTensor)
            if on_cpu and min(input.shape[2:]) >= FOLDED_SIDE:
                return F.conv_transpose2d(input, folded(self.weight), self.bias, stride=2, padding=1)
            input = F.interpolate(input, scale_factor=2.0, mode="nearest")
        if torch.is_grad_enabled() or input.device.type != "cpu":
            return super().forward(input)
        layout = "channels_last" if _is_channels_last(self.weight) else "contiguous"
        if max(input.shape[2:]) > SMALL_SIDE[layout] * self.stride[0]:
            return super().forward(input)
        return self._channels_last_product(input) if layout == "channels_last" else self._product(input)

    def _product(self, x: Tensor) -> Tensor:
        height, width = (-(-side // self.stride[0]) for side in x.shape[2:])
        windows = F.unfold(x, 3, padding=1, stride=self.stride[0]).transpose(1, 2)  # [B, HW, 9C]
        out = F.linear(windows, self.weight.flatten(1), self.bias)  # [B, HW, C']
        return out.transpose(1, 2).unflatten(2, (height, width))

    def _channels_last_product(self, x: Tensor) -> Tensor:
        stride = self.stride[0]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # [B, H + 2, W + 2, C]
        windows = padded.unfold(1, 3, stride).unfold(2, 3, stride).permute(0, 1, 2, 4, 5, 3)  # [B, H, W, 3, 3, C]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # a view: [C', 9C]
        return F.linear(windows.flatten(3), weight, self.bias).permute(0, 3, 1, 2)


def folded(weight: Tensor) -> Tensor:
    """Kernel ``[C, C', 4, 4]`` of the transposed convolution with stride 2 that equals doubling, then ``[C', C, 3, 3]``.

    Each output position sees 2 x 2 positions of the input, not 9: 4/9 of the operations. The sums of weights are rounded first, so
    results differ by a few units in the last place.
    """
    for dim in (2, 3):
        first, middle, last = weight.unbind(dim)
        weight = torch.stack([last, middle + last, first + middle, first], dim)
    return weight.transpose(0, 1)


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


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
        reuse = not torch.is_grad_enabled()  # overwrite intermediate results where no backward pass needs them
        h = self.conv1(F.silu(self.norm1(x), inplace=reuse))
        bias = self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h.add_(bias) if reuse else h + bias), inplace=reuse))
        return h.add_(self.skip(x)) if reuse else self.skip(x) + h


class Upsample(nn.Module):
    """Nearest, times two, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(channels, channels, doubled=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, 2H, 2W]``."""
        return self.conv(x)


class Normed(nn.Sequential):
    """GroupNorm, SiLU, then a layer."""

    def __init__(self, channels: int, num_groups: int, layer: nn.Module) -> None:
        super().__init__(nn.GroupNorm(num_groups, channels, eps=1e-5), nn.SiLU(), layer)


class MeanPool(nn.Module):
    """Mean over the positions of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C]``."""
        return x.mean(dim=(2, 3))


class ImageLayers:
    """:class:`medcodi.networks.unet.Layers` of latent maps ``[B, C, H, W]``."""

    def __init__(self, latent_shape: tuple[int, ...], config: UNetConfig) -> None:
        self.latent_channels, self.height, self.width = latent_shape
        self.num_groups = config.num_groups

    def grid(self, level: int) -> tuple[int, int]:
        """Height and width of the map at a level."""
        return self.height >> level, self.width >> level

    def stem(self, channels: int) -> nn.Module:
        """Latent -> first width."""
        return Convolution(self.latent_channels, channels)

    def residual(self, channels_in: int, channels_out: int, time_dim: int) -> nn.Module:
        """A residual block that is given the time."""
        return ResidualBlock(channels_in, channels_out, time_dim=time_dim, num_groups=self.num_groups)

    def down(self, channels: int) -> nn.Module:
        """Half the resolution."""
        return Convolution(channels, channels, stride=2)

    def up(self, channels: int) -> nn.Module:
        """Twice the resolution."""
        return Upsample(channels)

    def head(self, channels: int) -> nn.Module:
        """Last width -> latent."""
        return Normed(channels, self.num_groups, Convolution(channels, self.latent_channels))

    def pool(self, channels: int, out: int) -> nn.Module:
        """Map -> one vector ``[B, out]``."""
        return nn.Sequential(Normed(channels, self.num_groups, Convolution(channels, out)), MeanPool())
