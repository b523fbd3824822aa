"""Hearing features: denoisers that run in lockstep attend, block by block, to each other's feature maps (``environment: {kind: features}``).

Each denoiser pauses after every block that attends to the prompts (``UNet.shared_maps``). Then a :class:`Connector` adds to its map what
it reads in the maps of the others. Output projections start at zero, so training starts from denoisers that hear nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.networks.attention_backends import ATTENTION_BACKENDS
from medcodi.networks.unet import MapShape, Pass


class Positions(nn.Module):
    """A learned vector for every position of a map, the sum of one for its row and one for its column.

    At first rows have sinusoids in half of each head's channels, the same for all maps: both views of a chest share the vertical
    axis, so a row finds the row of the same height. Columns have sinusoids in the other half, or zeros.
    """

    def __init__(self, shape: MapShape, dim: int, num_heads: int, *, columns: bool) -> None:
        super().__init__()
        half = dim // num_heads // 2
        rows, across = torch.zeros(shape.height, num_heads, 2 * half), torch.zeros(shape.width, num_heads, 2 * half)
        rows[..., :half] = _sinusoids(shape.height, half)[:, None]
        if columns:
            across[..., half:] = _sinusoids(shape.width, half)[:, None]
        self.rows = nn.Parameter(F.pad(rows, (0, dim // num_heads - 2 * half)).flatten(1))  # [H, C]
        self.columns = nn.Parameter(F.pad(across, (0, dim // num_heads - 2 * half)).flatten(1))  # [W, C]

    def forward(self) -> Tensor:
        """``[H W, C]``."""
        return (self.rows[:, None] + self.columns[None]).flatten(0, 1)


def _sinusoids(length: int, dim: int) -> Tensor:
    """``[length, dim]``: relative positions in (0, 1) as sines and cosines of 1, 2, 3 ... quarter periods over the length."""
    place = (torch.arange(length) + 0.5) / length
    waves = torch.arange(dim) // 2 + 1
    return torch.sin(place[:, None] * waves * math.pi / 2 + torch.arange(dim) % 2 * math.pi / 2)


class Fellow(nn.Module):
    """Keys and values of the map of one fellow denoiser."""

    def __init__(self, shape: MapShape, dim: int, num_heads: int) -> None:
        super().__init__()
        self.to_keys_values = nn.Linear(shape.channels, 2 * dim)
        self.positions = Positions(shape, dim, num_heads, columns=True)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised tokens ``[B, H W, C']`` -> two of ``[B, H W, C]``."""
        k, v = self.to_keys_values(tokens).chunk(2, dim=-1)
        return k + self.positions().to(k.dtype), v


class Connector(nn.Module):
    """Attention of one denoiser's map, at one block, to the maps of its fellows; zero at first."""

    def __init__(self, own: MapShape, fellows: Mapping[str, MapShape], *, num_heads: int) -> None:
        super().__init__()
        dim = own.channels
        self.num_heads = num_heads
        self.backend = "sdpa"  # a row of ATTENTION_BACKENDS
        self.to_q = nn.Linear(dim, dim)
        self.positions = Positions(own, dim, num_heads, columns=False)
        self.fellows = nn.ModuleDict({name: Fellow(shape, dim, num_heads) for name, shape in fellows.items()})
        self.to_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, x: Tensor, tokens: Tensor, heard: Mapping[str, Tensor]) -> Tensor:
        """The map and what is heard; a fellow that is absent has no influence.

        Args:
            x: The map ``[B, C, H, W]``.
            tokens: The same normalised, as :func:`tokens_of` makes it, ``[B, H W, C]``.
            heard: Fellow -> normalised tokens of its map.
        """
        pairs = [self.fellows[name](other.to(x.dtype)) for name, other in heard.items() if name in self.fellows]
        if not pairs:  # no fellow has shown a map yet
            return x
        queries = self.to_q(tokens)
        queries = queries + self.positions().to(queries.dtype)
        # The positions of all fellows side by side, under one softmax.
        keys, values = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))  # [B, L, C]
        heads = (self.num_heads, -1)
        q, k, v = (part.unflatten(2, heads).transpose(1, 2) for part in (queries, keys, values))  # [B, heads, N, d]
        out = ATTENTION_BACKENDS[self.backend].attend(q, k, v, None)
        return x + self.to_out(out.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])


def tokens_of(x: Tensor) -> Tensor:
    """A map ``[B, C, H, W]`` as tokens ``[B, H W, C]`` of mean 0 and variance 1; once for all who hear it."""
    # Torch's views, here as in Connector: einops takes longer than a small map.
    return F.layer_norm(x.flatten(2).transpose(1, 2), (x.shape[1],))


class Connectors(nn.Module):
    """The connectors of one denoiser: one for each map at which it pauses."""

    def __init__(self, name: str, maps: Mapping[str, Sequence[MapShape]], *, num_heads: int) -> None:
        """``maps``: modality -> the maps of its denoiser, as ``UNet.shared_maps``; ``name`` among them."""
        super().__init__()
        count = len(maps[name])
        self.blocks = nn.ModuleList()
        for place, own in enumerate(maps[name]):
            shown = {other: _shown(place, count, len(shapes)) for other, shapes in maps.items() if other != name}
            fellows = {other: maps[other][index] for other, index in shown.items() if index is not None}
            self.blocks.append(Connector(own, fellows, num_heads=num_heads))

    def forward(self, place: int, x: Tensor, tokens: Tensor, heard: Mapping[str, Tensor]) -> Tensor:
        """The map ``[B, C, H, W]`` after block ``place`` with what is heard; arguments as of :class:`Connector`."""
        return self.blocks[place](x, tokens, heard)


def _depth(place: int, count: int) -> Fraction:
    """How deep in its network a map is: denoisers of different depths are matched by it."""
    return Fraction(place + 1, count + 1)


def _shown(place: int, count: int, fellow_count: int) -> int | None:
    """Index of the last map that a fellow has shown when a denoiser is at ``place``; None: it has shown none."""
    # The greatest index with _depth(index, fellow_count) <= _depth(place, count).
    index = int(_depth(place, count) * (fellow_count + 1)) - 1
    return index if index >= 0 else None


def lockstep(
    denoisers: Mapping[str, Any], passes: Mapping[str, Pass], connectors: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Run the passes of several denoisers block by block, each hearing the others; modality -> prediction.

    Args:
        denoisers: Modality -> ``UNet``.
        passes: Modality -> its pass, from ``UNet.begin``.
        connectors: Modality -> :class:`Connectors`.
    """
    counts = {name: len(denoiser.shared_maps) for name, denoiser in denoisers.items()}
    places = {name: {_depth(place, count): place for place in range(count)} for name, count in counts.items()}
    tokens: dict[str, Tensor] = {}  # the last map of each, as its own blocks made it
    # The last map of each with what was heard, which its next block reads; None before the first.
    changed: dict[str, Tensor | None] = dict.fromkeys(denoisers)
    for depth in sorted(set().union(*places.values())):
        here = [name for name in denoisers if depth in places[name]]
        # Run up to this depth, and only then hear: all hear the same state of the others.
        maps = {name: denoisers[name].advance(passes[name], changed[name]) for name in here}
        tokens |= {name: tokens_of(h) for name, h in maps.items()}
        for name in here:
            others = {other: heard for other, heard in tokens.items() if other != name}
            changed[name] = connectors[name](places[name][depth], maps[name], tokens[name], others)
    return {name: denoisers[name].advance(passes[name], changed[name]) for name in denoisers}
