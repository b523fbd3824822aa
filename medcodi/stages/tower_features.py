"""Maps that are held to the patch features of the aligned image tower.

``autoencode`` holds latents to them (VA-VAE, Yao et al., 2025, arXiv 2501.01423), ``diffuse`` the middle of a denoiser (REPA, Yu et
al., 2024, arXiv 2410.06940). The tower here is the model's own, trained by ``align``.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.model import MedCoDi
from medcodi.networks.prompt_encoding import PromptEncoding


class TowerFeatures(nn.Module):
    """A trained projection of a map's channels, and its distance to the tower's features of the same image."""

    def __init__(self, channels: int, model: MedCoDi, *, hidden: int | None = None) -> None:
        """Project ``channels`` to the tower's, linearly, or by a small network of ``hidden`` channels."""
        super().__init__()
        width = model.prompt_encoders.embed_dim
        layers = (channels, width) if hidden is None else (channels, hidden, hidden, width)
        steps: list[nn.Module] = []
        for before, after in pairwise(layers):
            steps += [nn.Conv2d(before, after, 1), nn.SiLU()]
        self.project = nn.Sequential(*steps[:-1])
        # The same weights in every process, whatever was drawn before.
        generator = torch.Generator().manual_seed(channels)
        for layer in self.project:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=layer.in_channels**-0.5, generator=generator)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def distance(self, maps: Tensor, encoding: PromptEncoding) -> Tensor:
        """1 - cosine between the projected maps ``[B, C, h, w]`` and the patches' tokens, averaged over positions: ``[B]``.

        The finer of both grids is averaged to the other.
        """
        # The class token comes first, then the patches row by row: [B, 1 + g * g, D] -> [B, D, g, g].
        patches = encoding.tokens[:, 1:].transpose(1, 2).float()
        side = math.isqrt(patches.shape[-1])
        features = patches.unflatten(-1, (side, side))
        projected = self.project(maps.float()).float()
        grid = (min(side, projected.shape[-2]), min(side, projected.shape[-1]))
        ours, theirs = (F.adaptive_avg_pool2d(value, grid) for value in (projected, features.to(projected.device)))
        return (1.0 - F.cosine_similarity(ours, theirs, dim=1)).flatten(1).mean(1)
