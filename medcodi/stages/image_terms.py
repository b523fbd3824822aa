"""What the image autoencoder is trained on and by: crops, and the difference of gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crops(images: Tensor, size: int, draws: Tensor) -> Tensor:
    """Square crops, each from its own place.

    Args:
        images: ``[B, 1, H, W]``.
        size: Pixels on a side, at most H and W.
        draws: ``[B, 2]`` in [0, 1): where each crop lies, down and right.

    Returns:
        ``[B, 1, size, size]``.
    """
    height, width = images.shape[-2:]
    corners = (draws.cpu() * torch.tensor([height - size + 1, width - size + 1])).long().tolist()
    return torch.stack(
        [image[:, top : top + size, left : left + size] for image, (top, left) in zip(images, corners, strict=True)]
    )


def edge_difference(a: Tensor, b: Tensor, num_scales: int) -> Tensor:
    """Mean absolute difference of the horizontal and vertical gradients at several resolutions.

    Args:
        a: ``[B, C, H, W]``.
        b: The same shape.
        num_scales: How many resolutions, each half the one before; those below 2 pixels are left out.

    Returns:
        ``[B]``.
    """
    difference = a - b  # gradients are linear: the gradient of the difference is the difference of the gradients
    found = []
    for _ in range(num_scales):
        if min(difference.shape[-2:]) < 2:
            break
        across = difference.diff(dim=-1).abs().flatten(1).mean(1)
        down = difference.diff(dim=-2).abs().flatten(1).mean(1)
        found.append(across + down)
        difference = F.avg_pool2d(difference, 2) if min(difference.shape[-2:]) >= 4 else difference[..., :1, :1]
    return torch.stack(found).mean(0)
