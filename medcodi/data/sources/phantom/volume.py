"""The coarse attenuation volume: organs painted in order with soft edges, each replacing what was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from medcodi.data.sources.phantom.body import Body
from medcodi.study import Finding

HALF_DEPTH = 0.72  # of the volume, in y
EDGE = 0.045
TISSUE, FAT, LUNG, AIR, FLUID = 1.0, 0.86, 0.24, 0.0, 1.0
SIGN = {"left": 1.0, "right": -1.0}
LOBE_CENTRE = {  # z within the lung (0 apex .. 1 base), y
    "upper": (0.28, -0.05),
    "middle": (0.66, -0.17),
    "lower": (0.74, 0.14),
}


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


GRID = grid(76, 40, 76, version=1)


@dataclass(frozen=True)
class Thorax:
    """Attenuation per unit of length, and where the lungs' air is, both ``[NZ, NY, NX]``."""

    mu: np.ndarray
    air: np.ndarray


def _soft(distance: np.ndarray, edge: float = EDGE) -> np.ndarray:
    """1 inside, 0 outside, linear over the edge; ``distance`` is negative inside, and its array becomes the result."""
    distance /= -edge
    distance += 0.5
    return np.clip(distance, 0.0, 1.0, out=distance)


def _root(squares: np.ndarray, radius: float) -> np.ndarray:
    """How far beyond the unit sphere, times a radius; the array of squares becomes the result."""
    np.sqrt(squares, out=squares)
    squares -= 1
    squares *= radius
    return squares


def _ellipsoid(g: Grid, centre: Sequence[float], radii: Sequence[float], edge: float = EDGE) -> tuple[Box, np.ndarray]:
    """The box that holds an ellipsoid, and how far each of its voxels is inside."""
    (cx, cy, cz), (rx, ry, rz) = centre, radii
    reach = 1 + 0.5 * edge / min(radii) + 1e-5  # beyond it nothing is inside
    box = g.box(centre, [radius * reach for radius in radii])
    part = g.cut(box)
    squares = ((part.x - cx) / rx) ** 2 + ((part.y - cy) / ry) ** 2 + ((part.z - cz) / rz) ** 2
    return box, _soft(_root(squares, min(radii)), edge)


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


def _lung(g: Grid, body: Body, side: str) -> np.ndarray:
    s, w = SIGN[side], body.half_width
    bottom, top = 0.95, body.apex
    t = np.clip((g.z - top) / (bottom - top), 0, 1)  # 0 apex .. 1 far below the dome
    profile = np.sin(np.pi * np.clip(0.003 + 0.66 * t, 0, 1)) ** 0.5  # narrow apex, wide base
    cx, rx = s * 0.50 * w, 0.50 * w * profile
    cy, ry = 0.02 + body.kyphosis * (g.z**2), (body.half_depth - 0.075 - 0.5 * body.fat) * (0.45 + 0.55 * profile)
    shell = _soft(_root(((g.x - cx) / rx) ** 2 + ((g.y - cy) / ry) ** 2, 0.25))
    shell *= _soft(top - g.z + 0.02)
    return shell * _soft(g.z - dome(g, body, side))


def _torso(g: Grid, body: Body) -> tuple[np.ndarray, np.ndarray]:
    waist = body.half_width + 0.07 + body.fat
    neck = 0.22 + 0.05 * body.habitus
    rise = 1 / (1 + np.exp((g.z + 0.80 + body.shoulder_drop) / 0.035))  # 1 above the shoulders
    shoulder = 0.32 * np.exp(-(((g.z + 0.58 + body.shoulder_drop) / 0.20) ** 2))
    half_width = neck * rise + (waist + shoulder + 0.05 * np.clip(g.z, 0, 1)) * (1 - rise)
    half_depth = (body.half_depth + 0.05 + body.fat) * (1 - 0.55 * rise) * (1 - 0.16 * np.clip(-g.z - 0.35, 0, 1))
    cy = body.kyphosis * g.z**2 + 0.10 * rise
    r = np.abs(g.x / half_width) ** 2.6 + np.abs((g.y - cy) / half_depth) ** 2.6
    skin = 1 - 0.9 * body.fat  # where the fat ends
    if g.version > 1:  # a tangent in place of the root at each of the two edges
        return _soft((r - 1) * (0.4 / 2.6)), _soft((r - skin**2.6) * (0.4 / (2.6 * skin**1.6)))
    near = (r > 0.45) & (r < 1.3)  # elsewhere both edges are far, whatever the root is
    r[near] **= 1 / 2.6
    return _soft((r - 1) * 0.4), _soft((r - 1 + 0.9 * body.fat) * 0.4)


def build(
    body: Body, findings: Sequence[Finding], rng_of: Callable[[Finding], np.random.Generator], g: Grid = GRID
) -> Thorax:
    """Paint a thorax with its findings.

    Args:
        body: The patient.
        findings: What acts inside the lungs and pleura.
        rng_of: Generator of a finding's place and texture.
        g: The voxels.
    """
    mu = np.zeros(g.shape, np.float32)
    torso = np.empty_like(mu)
    for slab in g.slabs():
        torso[slab], inner = _torso(g.cut(slab), body)
        _paint(mu[slab], torso[slab], FAT)
        _paint(mu[slab], inner, TISSUE)
    for s in (-1, 1):
        box, breast = _ellipsoid(g, (s * 0.36, -body.half_depth - 0.02, 0.22), (0.25, 0.05 + 0.11 * body.breast, 0.22))
        mu[box] += breast * (1 - torso[box]) * 0.85 * min(body.breast, 1.0)
    lungs = {}
    air = np.zeros_like(mu)
    for side in SIGN:
        box = _lung_box(g, body, side)
        lungs[side] = box, _lung(g.cut(box), body, side)
        _paint(mu[box], lungs[side][1], LUNG)
        air[box] += lungs[side][1]
    solid = _mediastinum(g, mu, body)
    air *= 1 - solid
    for finding in findings:
        act, rng = _ACTS.get(finding.label), rng_of(finding)
        for side in ("left", "right") if finding.side == "bilateral" else (finding.side,):
            if act is not None and side is not None:
                box, lung = lungs[side]
                act(g.cut(box), mu[box], air[box], lung * (1 - solid[box]), body, side, finding, rng)
    box, bubble = _ellipsoid(g, (0.33, -0.1, body.dome_left + 0.18), (0.13, 0.12, 0.06))
    _paint(mu[box], bubble, 0.35)
    return Thorax(mu, air)


def _lung_box(g: Grid, body: Body, side: str) -> Box:
    """The voxels around a lung; all of them in version 1, whose findings reach a little further."""
    if g.version == 1:
        return slice(None), slice(None), slice(None)
    return g.box((SIGN[side] * 0.5, 0, 0.5 * (body.apex + 1)), (0.56, 1, 0.5 * (1 - body.apex) + 0.01))


def _paint(mu: np.ndarray, mask: np.ndarray, value: float | np.ndarray) -> None:
    change = value - mu
    mu += np.multiply(mask, change, out=change if change.dtype == mask.dtype else None)


def _mediastinum(g: Grid, mu: np.ndarray, body: Body) -> np.ndarray:
    """Mediastinum, heart, great vessels, hila, trachea; returns where they are."""
    solid = np.zeros(mu.shape, g.mask_dtype)

    def add(box: Box, part: np.ndarray) -> None:
        np.maximum(solid[box], part, out=solid[box], casting="same_kind")

    # The column between the lungs, wider below.
    box = g.box((0.01, 0.02, 0), (body.mediastinum * 1.3 * 1.23, 0.30 * 1.23, 1))
    near = g.cut(box)
    half = body.mediastinum * (1 + 0.3 * np.clip(near.z + 0.2, 0, 1))
    add(box, _soft(_root(((near.x - 0.01) / half) ** 2 + ((near.y - 0.02) / 0.30) ** 2, 0.1)))
    # heart: an ellipsoid whose long axis points down, left and forward
    r, tilt = body.heart_radius, body.heart_tilt
    cx, cy, cz = body.heart_x, -0.12, min(body.dome_left, body.dome_right) - 0.10 - 0.35 * (r - 0.275)
    reach = 1.22 * r + 0.04
    box = g.box((cx, cy, cz), (reach, reach, reach))
    near = g.cut(box)
    cos, sin = np.array([np.cos(tilt), np.sin(tilt)], g.mask_dtype)
    along = (near.x - cx) * cos + (near.z - cz) * sin
    across = -(near.x - cx) * sin + (near.z - cz) * cos
    squares = (along / (1.22 * r)) ** 2 + (across / (0.90 * r)) ** 2 + ((near.y - cy) / (0.82 * r)) ** 2
    add(box, _soft(_root(squares, r)))
    add(*_ellipsoid(g, (cx - 0.55 * r - 0.02, -0.08, cz), (0.52 * r, 0.16, 0.72 * r)))  # right atrium
    # With age the aorta unfolds: the arch rises, and arch and descending part move to the left.
    arch = (0.11 + 0.04 * body.unfolding, 0.06, -0.42 - 0.04 * body.unfolding)
    add(*_ellipsoid(g, arch, (body.aorta + 0.03, 0.12, body.aorta + 0.02)))
    box = g.box((0.12, 0.22, 0.25), (0.30, 0.25, 0.80))
    near = g.cut(box)
    descending = np.sqrt((near.x - 0.09 - 0.06 * body.unfolding) ** 2 + (near.y - 0.22) ** 2) - body.aorta
    add(box, _soft(descending) * _soft(-0.45 - near.z))
    add(*_ellipsoid(g, (0.15, -0.04, -0.24), (0.075, 0.09, 0.09)))  # pulmonary trunk
    _paint(mu, solid, TISSUE + 0.04)
    for s, z in ((1.0, -0.16), (-1.0, -0.12)):
        box, hilum = _ellipsoid(g, (s * 0.20, 0.02, z), (0.09, 0.09, 0.12), 0.12)
        mu[box] += 0.45 * hilum * (1 - solid[box])
    box = g.box((-0.005, 0.04, -0.62), (0.07, 0.07, 0.40))
    near = g.cut(box)
    trachea = _soft(np.sqrt((near.x + 0.005) ** 2 + (near.y - 0.04) ** 2) - 0.042) * _soft(near.z + 0.26)
    _paint(mu[box], trachea * (near.z > -0.98), 0.25)
    solid[box] -= trachea
    return np.clip(solid, 0, 1, out=solid)


def _centre(body: Body, side: str, finding: Finding, rng: np.random.Generator) -> tuple[float, float, float]:
    depth, y = LOBE_CENTRE[finding.location or "lower"]
    base = body.dome_left if side == "left" else body.dome_right
    z = body.apex + 0.10 + (base - body.apex - 0.05) * depth + float(rng.normal(0, 0.03))
    x = SIGN[side] * body.half_width * (0.50 + float(rng.normal(0, 0.05)))
    return x, y + float(rng.normal(0, 0.03)), z


def _effusion(
    g: Grid,
    mu: np.ndarray,
    air: np.ndarray,
    lung: np.ndarray,
    body: Body,
    side: str,
    finding: Finding,
    rng: np.random.Generator,
) -> None:
    height = {"small": 0.17, "moderate": 0.37, "large": 0.66}[finding.size or "moderate"] * float(
        rng.uniform(0.92, 1.08)
    )
    base = (body.dome_left if side == "left" else body.dome_right) + 0.20
    # the meniscus: up the sides and the back
    edge = np.clip((np.abs(g.x) / body.half_width) ** 3, 0, 1.3) * 0.13 + np.clip(g.y, 0, 1) * 0.25
    fluid = lung * _soft(base - height - edge - g.z, 0.06)
    _paint(mu, fluid, FLUID)
    air *= 1 - fluid


def _pneumothorax(
    g: Grid,
    mu: np.ndarray,
    air: np.ndarray,
    lung: np.ndarray,
    body: Body,
    side: str,
    finding: Finding,
    rng: np.random.Generator,
) -> None:
    gap = {"small": 0.10, "moderate": 0.18, "large": 0.30}[finding.size or "moderate"] * float(rng.uniform(0.93, 1.07))
    top = _centre(body, side, Finding(label="", location="upper"), rng)
    w = body.half_width
    cx = SIGN[side] * (0.46 * w - 0.35 * gap)
    across, deep = (g.x - cx) / (0.46 * w - 0.55 * gap), (g.y - 0.02) / (body.half_depth - 0.08 - 0.3 * gap)
    r = np.sqrt(across**2 + deep**2 + (np.minimum(g.z - (top[2] + 1.6 * gap + 0.12), 0) / 0.34) ** 2)
    outside = _soft((1 - r) * 0.22, 0.03) * lung
    pleura = np.exp(-(((r - 1) * 0.22 / 0.018) ** 2)) * lung
    _paint(mu, outside, 0.03)
    inside = lung * (1 - outside)
    mu += inside * 0.10
    mu += pleura * 0.35
    air *= 1 - outside


def _consolidation(
    g: Grid,
    mu: np.ndarray,
    air: np.ndarray,
    lung: np.ndarray,
    body: Body,
    side: str,
    finding: Finding,
    rng: np.random.Generator,
) -> None:
    x, y, z = _centre(body, side, finding, rng)
    blob = np.zeros(mu.shape, g.mask_dtype)
    for _ in range(5):
        dx, dy, dz = rng.normal(0, 0.06, 3)
        box, part = _ellipsoid(g, (x + dx, y + dy, z + dz), (0.15, 0.16, 0.13), 0.12)
        np.maximum(blob[box], part, out=blob[box])
    _paint(mu, blob * lung * 0.9, 0.92)
    air *= 1 - 0.8 * blob


def _edema(
    g: Grid,
    mu: np.ndarray,
    air: np.ndarray,
    lung: np.ndarray,
    body: Body,
    side: str,
    finding: Finding,
    rng: np.random.Generator,
) -> None:
    strength = {"small": 0.16, "moderate": 0.28, "large": 0.42}[finding.size or "moderate"]
    bat = np.exp(-(((np.abs(g.x) - 0.24) / 0.26) ** 2) - ((g.z + 0.02) / 0.42) ** 2 - (g.y / 0.45) ** 2)
    mu += lung * strength * (0.30 + 1.0 * bat)


def _lesion(
    g: Grid,
    mu: np.ndarray,
    air: np.ndarray,
    lung: np.ndarray,
    body: Body,
    side: str,
    finding: Finding,
    rng: np.random.Generator,
) -> None:
    radius = {"small": 0.055, "moderate": 0.08, "large": 0.115}[finding.size or "moderate"]
    x, y, z = _centre(body, side, finding, rng)
    box, ball = _ellipsoid(g, (x + float(rng.normal(0, 0.05)), y, z), (radius, radius * 1.25, radius), 0.04)
    mu[box] += ball * np.clip(1.25 - mu[box], 0, None)
    air[box] *= 1 - ball


def _atelectasis(
    g: Grid,
    mu: np.ndarray,
    air: np.ndarray,
    lung: np.ndarray,
    body: Body,
    side: str,
    finding: Finding,
    rng: np.random.Generator,
) -> None:
    surface = dome(g, body, side) - 0.07 + 0.10 * (np.abs(g.x) - 0.3)
    plate = np.exp(-(((g.z - surface) / 0.035) ** 2)) * (np.abs(g.x) > 0.16) * (np.abs(g.x) < body.half_width - 0.10)
    mu += lung * plate * 0.85


_ACTS = {
    "Pleural Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Lung Lesion": _lesion,
    "Atelectasis": _atelectasis,
}
