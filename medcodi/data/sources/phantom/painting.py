"""Voxels of the phantom, and the soft brushes that organs and findings are painted with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from medcodi.data.sources.phantom.body import Body

HALF_DEPTH = 0.72  # of the volume, in y
EDGE = 0.045  # width over which an organ fades into what is around it
SIGN = {"left": 1.0, "right": -1.0}  # of x
Box = tuple[slice, slice, slice]  # of a volume [z, y, x]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A block of voxels: their coordinates, each broadcastable to ``[NZ, NY, NX]``, and how organs are painted on them."""

    x: np.ndarray  # [1, 1, NX]
    y: np.ndarray  # [1, NY, 1]
    z: np.ndarray  # [NZ, 1, 1]
    version: int  # of the phantom; the films of version 1 stay bit for bit, whatever their arithmetic costs

    @property
    def mask_dtype(self) -> DTypeLike:
        """Precision of some organs' masks."""
        return np.float64 if self.version == 1 else np.float32

    @property
    def shape(self) -> tuple[int, int, int]:
        """NZ, NY, NX."""
        return self.z.shape[0], self.y.shape[1], self.x.shape[2]

    def cut(self, box: Box) -> Grid:
        """The voxels of a box."""
        x, y, z = self.x[:, :, box[2]], self.y[:, box[1]], self.z[box[0]]
        return Grid(x=x, y=y, z=z, version=self.version)

    def slabs(self) -> list[Box]:
        """The volume in slabs whose arrays fit into a processor's cache; one in version 1."""
        thick = self.shape[0] if self.version == 1 else 8
        return [(slice(top, top + thick), slice(None), slice(None)) for top in range(0, self.shape[0], thick)]

    def box(self, centre: Sequence[float], reach: Sequence[float]) -> Box:
        """The voxels within a reach of a centre, both (x, y, z)."""
        axes = (self.x.ravel(), self.y.ravel(), self.z.ravel())
        ends = [np.searchsorted(axis, (c - r, c + r)) for axis, c, r in zip(axes, centre, reach, strict=True)]
        across, deep, down = (slice(int(first), int(last)) for first, last in ends)
        return down, deep, across


def grid(nx: int, ny: int, nz: int, version: int) -> Grid:
    """The whole volume in this many voxels: x and z in [-1, 1], y in ±``HALF_DEPTH``."""
    x, y, z = ((((np.arange(num) + 0.5) / num) * 2 - 1) for num in (nx, ny, nz))
    x, y, z = (axis.astype(np.float32) for axis in (x, y * HALF_DEPTH, z))
    return Grid(x=x[None, None, :], y=y[None, :, None], z=z[:, None, None], version=version)


def soft(distance: np.ndarray, edge: float = EDGE) -> np.ndarray:
    """1 inside, 0 outside, linear over the edge; ``distance`` is negative inside, and its array becomes the result."""
    distance /= -edge
    distance += 0.5
    return np.clip(distance, 0.0, 1.0, out=distance)


def sphere_distance(squares: np.ndarray, radius: float) -> np.ndarray:
    """Distance from the surface of a ball, negative inside, from squared coordinates in radii; their array becomes the result."""
    np.sqrt(squares, out=squares)
    squares -= 1
    squares *= radius
    return squares


def ellipsoid(g: Grid, centre: Sequence[float], radii: Sequence[float], edge: float = EDGE) -> tuple[Box, np.ndarray]:
    """The box that holds an ellipsoid, and how far each of its voxels is inside."""
    (cx, cy, cz), (rx, ry, rz) = centre, radii
    reach = 1 + 0.5 * edge / min(radii) + 1e-5  # beyond it nothing is inside
    box = g.box(centre, [radius * reach for radius in radii])
    part = g.cut(box)
    squares = ((part.x - cx) / rx) ** 2 + ((part.y - cy) / ry) ** 2 + ((part.z - cz) / rz) ** 2
    return box, soft(sphere_distance(squares, min(radii)), edge)


def dome(g: Grid, body: Body, side: str) -> np.ndarray:
    """Height z of a hemidiaphragm over (y, x): highest in the middle and front, steep to the sides and the back."""
    top = body.dome_left if side == "left" else body.dome_right
    u = (g.x - SIGN[side] * 0.36 * body.half_width / 0.68) / 0.40
    v = (g.y + 0.06) / 0.42
    fall = (
        0.16 * u**2
        + 0.10 * np.maximum(u * SIGN[side], 0) ** 4
        + np.where(v > 0, 0.26, 0.10).astype(g.mask_dtype) * v**2
    )
    return top + fall  # [1, NY, NX]


def paint(mu: np.ndarray, mask: np.ndarray, value: float | np.ndarray) -> None:
    """Replace what is there by a value, in place, as far as the mask says."""
    change = value - mu
    mu += np.multiply(mask, change, out=change if change.dtype == mask.dtype else None)
