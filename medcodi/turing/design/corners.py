"""Corners of a blinded image, where markers are: filled from around them, so that nothing of what they held remains and nothing is cut."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_BAND = 3  # pixels beside a corner that it is filled from


def corner_mask(size: int, share: float) -> np.ndarray:
    """True in the four corner squares: bool ``[size, size]``."""
    side = round(share * size)
    edge = np.zeros(size, dtype=bool)
    edge[:side] = edge[size - side :] = side > 0
    return edge[:, None] & edge[None, :]


def with_filled_corners(image: np.ndarray, share: float) -> np.ndarray:
    """The image with each corner square replaced by the smoothest continuation of the pixels beside it.

    It solves Laplace's equation with the means of the three nearest pixels on the two inner sides, and no slope at the image's edges. No
    pixel of the corner itself is used; no value exceeds those beside it, and there is no step at the inner sides.

    Args:
        image: float ``[S, S]``.
        share: Side of the squares, as a share of S; at most 0.3.
    """
    image = image.copy()
    side = round(share * len(image))
    if not side:
        return image
    values, vectors = _laplacian(side)
    for turned in (
        image,
        image[::-1],
        image[:, ::-1],
        image[::-1, ::-1],
    ):  # views: each has another corner at its upper left
        beside = np.zeros((side, side))
        beside[:, -1] += turned[:side, side : side + _BAND].mean(axis=1)
        beside[-1] += turned[side : side + _BAND, :side].mean(axis=0)
        # In the eigenvectors of both directions the equation is a division.
        turned[:side, :side] = vectors @ ((vectors.T @ beside @ vectors) / (values[:, None] + values)) @ vectors.T
    return image


@lru_cache(maxsize=4)
def _laplacian(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the second difference: no slope at the first pixel, a known value after the last."""
    matrix = 2 * np.eye(side) - np.eye(side, k=1) - np.eye(side, k=-1)
    matrix[0, 0] = 1
    return np.linalg.eigh(matrix)
