"""Low-rank changes of a network's weights (LoRA: Hu et al., 2022, arXiv 2106.09685), stored beside it and not in it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import register_parametrization

from medcodi.config import Count, config

Weights = Mapping[str, Tensor]  # name of a parameter -> the value that it has in place of its own


@config
class LowRankConfig:
    """Low-rank changes that a run trains in place of the weights of its stage: an adapter of the model that it starts from."""

    rank: Count = 8  # of the change of each weight
    # layers that are changed, by a part of their names, such as [to_q, to_k, to_v, to_out]: attention alone; empty: every
    # linear layer and convolution that the stage trains
    layers: tuple[str, ...] = ()


class LowRank(nn.Module):
    """For each linear layer and convolution of a network a change B A of its weight W; zero at first.

    A weight of a convolution ``[C_out, C_in, k, k]`` is changed as the matrix ``[C_out, C_in k k]``. ``layers`` are the names of
    those that are changed; None: all.
    """

    def __init__(self, network: nn.Module, rank: int, layers: Container[str] | None = None) -> None:
        super().__init__()
        self.rank = rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and (layers is None or name in layers):
                num_out, num_in = layer.weight.flatten(1).shape
                size = min(rank, num_out, num_in)
                key = _key(name)
                self.down[key] = nn.Parameter(torch.randn(size, num_in) / num_in**0.5)
                self.up[key] = nn.Parameter(torch.zeros(num_out, size))

    def change(self, key: str, weight: Tensor) -> Tensor:
        """B A of one layer, with the shape and precision of its weight."""
        # Not in the precision of autocast: W + B A would be rounded otherwise when it is merged.
        with torch.autocast(weight.device.type, enabled=False):
            product = self.up[key] @ self.down[key]  # [C_out, C_in k k]
        return product.to(weight.dtype).view_as(weight)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """W + B A of every layer that is changed, by the name of its parameter in ``network``."""
        own = dict(network.named_parameters())
        names = {key: f"{layer_name(key)}.weight" for key in self.down}
        return {name: own[name] + self.change(key, own[name]) for key, name in names.items()}

    def attach(self, network: nn.Module) -> None:
        """Have ``network`` compute with W + B A from now on; its own parameters stay as they are."""
        for key in self.down:
            register_parametrization(network.get_submodule(layer_name(key)), "weight", _Changed(self, key))


class _Changed(nn.Module):
    """W -> W + B A, computed anew whenever a layer reads its weight."""

    def __init__(self, changes: LowRank, key: str) -> None:
        super().__init__()
        self.__dict__["changes"] = changes  # not a child: its parameters belong to the adapter
        self.key = key

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.__dict__["changes"].change(self.key, weight)


def call_with(network: nn.Module, weights: Weights | None, *args: Any) -> Any:
    """``network(*args)`` with some weights replaced; None: with its own."""
    return network(*args) if weights is None else functional_call(network, dict(weights), args)


def layer_name(key: str) -> str:
    """The name of the layer that a key of :class:`LowRank` stands for."""
    return key.replace("/", ".")


def _key(name: str) -> str:
    """A name of a module as a key of parameters, which may hold no dot."""
    return name.replace(".", "/")
