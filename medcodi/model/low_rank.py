"""Low-rank changes of a network's weights (LoRA: Hu et al., 2022, arXiv 2106.09685), stored beside it and not in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Weights = Mapping[str, Tensor]  # name of a parameter -> the value that it has in place of its own


class LowRank(nn.Module):
    """For each linear layer and convolution of a network a change B A of its weight W; zero at first.

    A weight of a convolution ``[C_out, C_in, k, k]`` is changed as the matrix ``[C_out, C_in k k]``.
    """

    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                num_out, num_in = layer.weight.flatten(1).shape
                size = min(rank, num_out, num_in)
                key = _key(name)
                self.down[key] = nn.Parameter(torch.randn(size, num_in) / num_in**0.5)
                self.up[key] = nn.Parameter(torch.zeros(num_out, size))

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """W + B A of every layer that is changed, by the name of its parameter in ``network``."""
        own = dict(network.named_parameters())
        changed = {}
        for key, down in self.down.items():
            name = f"{key.replace('/', '.')}.weight"
            change = self.up[key] @ down  # [C_out, C_in k k]
            changed[name] = own[name] + change.to(own[name].dtype).view_as(own[name])
        return changed


def call_with(network: nn.Module, weights: Weights | None, *args: Any) -> Any:
    """``network(*args)`` with some weights replaced; None: with its own."""
    return network(*args) if weights is None else functional_call(network, dict(weights), args)


def _key(name: str) -> str:
    """A name of a module as a key of parameters, which may hold no dot."""
    return name.replace(".", "/")
