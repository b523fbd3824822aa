"""The 3x3 convolution of the denoisers, and how it is computed on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# On a CPU, oneDNN rearranges the weights at every call, which costs more than the arithmetic where the map is small. Up to
# so many output positions in a row, the same sums are written as one matrix product, which takes the weights as they lie.
SMALL_SIDE = {"contiguous": 8, "channels_last": 16}


class Convolution(nn.Conv2d):
    """3x3 convolution with padding 1: ``nn.Conv2d`` with the same weights, and a faster way through small maps on a CPU.

    The way is taken without gradients only; training is ``nn.Conv2d``'s.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, 3, stride=stride, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H / stride, W / stride]``."""
        if torch.is_grad_enabled() or input.device.type != "cpu":
            return super().forward(input)
        layout = "channels_last" if _is_channels_last(self.weight) else "contiguous"
        if max(input.shape[2:]) > SMALL_SIDE[layout] * self.stride[0]:
            return super().forward(input)
        return self._channels_last_product(input) if layout == "channels_last" else self._product(input)

    def _product(self, x: Tensor) -> Tensor:
        height, width = (-(-side // self.stride[0]) for side in x.shape[2:])
        windows = F.unfold(x, 3, padding=1, stride=self.stride[0]).transpose(1, 2)  # [B, HW, 9C]
        out = F.linear(windows, self.weight.flatten(1), self.bias)
        return out.transpose(1, 2).unflatten(2, (height, width))

    def _channels_last_product(self, x: Tensor) -> Tensor:
        stride = self.stride[0]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # [B, H + 2, W + 2, C]
        windows = padded.unfold(1, 3, stride).unfold(2, 3, stride).permute(0, 1, 2, 4, 5, 3)  # [B, H, W, 3, 3, C]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # a view: [C', 9C]
        return F.linear(windows.flatten(3), weight, self.bias).permute(0, 3, 1, 2)


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
