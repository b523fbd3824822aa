"""The coarse attenuation volume: organs painted in order with soft edges, each replacing what was there.

Findings inside the lungs and the pleura come last: each changes the attenuation and the air of one side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from medcodi.data.sources.phantom.body import Body
from medcodi.data.sources.phantom.painting import SIGN, Box, Grid, dome, ellipsoid, grid, paint, soft, sphere_distance
from medcodi.study import Finding

FLUID = 1.0  # attenuation, in that of soft tissue
LOBE_CENTRE = {  # z within the lung (0 apex .. 1 base), y
    "upper": (0.28, -0.05),
    "middle": (0.66, -0.17),
    "lower": (0.74, 0.14),
}


class LungPart(NamedTuple):
    """The block of voxels around one lung; ``mu`` and ``air`` are changed in place."""

    g: Grid
    mu: np.ndarray  # attenuation [NZ, NY, NX]
    air: np.ndarray  # how much of each voxel is air of the lung
    lung: np.ndarray  # how much of it is lung and no solid organ
    body: Body
    side: str


def _centre(body: Body, side: str, finding: Finding, rng: np.random.Generator) -> tuple[float, float, float]:
    """A point (x, y, z) in the finding's lobe."""
    depth, y = LOBE_CENTRE[finding.location or "lower"]
    base = body.dome_left if side == "left" else body.dome_right
    z = body.apex + 0.10 + (base - body.apex - 0.05) * depth + float(rng.normal(0, 0.03))
    x = SIGN[side] * body.half_width * (0.50 + float(rng.normal(0, 0.05)))
    return x, y + float(rng.normal(0, 0.03)), z


def _effusion(part: LungPart, finding: Finding, rng: np.random.Generator) -> None:
    """Fluid at the base, up the sides and the back."""
    g, mu, air, lung, body, side = part
    height = {"small": 0.17, "moderate": 0.37, "large": 0.66}[finding.size or "moderate"] * float(
        rng.uniform(0.92, 1.08)
    )
    base = (body.dome_left if side == "left" else body.dome_right) + 0.20
    # The meniscus: up the sides and the back.
    edge = np.clip((np.abs(g.x) / body.half_width) ** 3, 0, 1.3) * 0.13 + np.clip(g.y, 0, 1) * 0.25
    fluid = lung * soft(base - height - edge - g.z, 0.06)
    paint(mu, fluid, FLUID)
    air *= 1 - fluid


def _pneumothorax(part: LungPart, finding: Finding, rng: np.random.Generator) -> None:
    """Air outside a lung that has shrunk, and the edge of the pleura."""
    g, mu, air, lung, body, side = part
    gap = {"small": 0.10, "moderate": 0.18, "large": 0.30}[finding.size or "moderate"] * float(rng.uniform(0.93, 1.07))
    top = _centre(body, side, Finding(label="", location="upper"), rng)
    w = body.half_width
    cx = SIGN[side] * (0.46 * w - 0.35 * gap)
    across, deep = (g.x - cx) / (0.46 * w - 0.55 * gap), (g.y - 0.02) / (body.half_depth - 0.08 - 0.3 * gap)
    r = np.sqrt(across**2 + deep**2 + (np.minimum(g.z - (top[2] + 1.6 * gap + 0.12), 0) / 0.34) ** 2)
    outside = soft((1 - r) * 0.22, 0.03) * lung
    pleura = np.exp(-(((r - 1) * 0.22 / 0.018) ** 2)) * lung
    paint(mu, outside, 0.03)
    inside = lung * (1 - outside)
    mu += inside * 0.10
    mu += pleura * 0.35
    air *= 1 - outside


def _consolidation(part: LungPart, finding: Finding, rng: np.random.Generator) -> None:
    """Five blobs of fluid around one place."""
    g, mu, air, lung, body, side = part
    x, y, z = _centre(body, side, finding, rng)
    blob = np.zeros(mu.shape, g.mask_dtype)
    for _ in range(5):
        dx, dy, dz = rng.normal(0, 0.06, 3)
        box, ball = ellipsoid(g, (x + dx, y + dy, z + dz), (0.15, 0.16, 0.13), 0.12)
        np.maximum(blob[box], ball, out=blob[box])
    paint(mu, blob * lung * 0.9, 0.92)
    air *= 1 - 0.8 * blob


def _edema(part: LungPart, finding: Finding, rng: np.random.Generator) -> None:
    """Fluid around both hila, in the shape of a bat."""
    g, mu, _, lung, _, _ = part
    strength = {"small": 0.16, "moderate": 0.28, "large": 0.42}[finding.size or "moderate"]
    bat = np.exp(-(((np.abs(g.x) - 0.24) / 0.26) ** 2) - ((g.z + 0.02) / 0.42) ** 2 - (g.y / 0.45) ** 2)
    mu += lung * strength * (0.30 + 1.0 * bat)


def _lesion(part: LungPart, finding: Finding, rng: np.random.Generator) -> None:
    """A ball."""
    g, mu, air, _, body, side = part
    radius = {"small": 0.055, "moderate": 0.08, "large": 0.115}[finding.size or "moderate"]
    x, y, z = _centre(body, side, finding, rng)
    box, ball = ellipsoid(g, (x + float(rng.normal(0, 0.05)), y, z), (radius, radius * 1.25, radius), 0.04)
    mu[box] += ball * np.clip(1.25 - mu[box], 0, None)
    air[box] *= 1 - ball


def _atelectasis(part: LungPart, finding: Finding, rng: np.random.Generator) -> None:
    """A plate above the diaphragm."""
    g, mu, _, lung, body, side = part
    surface = dome(g, body, side) - 0.07 + 0.10 * (np.abs(g.x) - 0.3)
    plate = np.exp(-(((g.z - surface) / 0.035) ** 2)) * (np.abs(g.x) > 0.16) * (np.abs(g.x) < body.half_width - 0.10)
    mu += lung * plate * 0.85


FINDINGS: dict[str, Callable[[LungPart, Finding, np.random.Generator], None]] = {
    "Pleural Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Lung Lesion": _lesion,
    "Atelectasis": _atelectasis,
}


# ---- the volume ------------------------------------------------------------------------------------------------------
TISSUE, FAT, LUNG = 1.0, 0.86, 0.24  # attenuation
GRID = grid(76, 40, 76, version=1)


@dataclass(frozen=True)
class Thorax:
    """Attenuation per unit of length, and where the lungs' air is, both ``[NZ, NY, NX]``."""

    mu: np.ndarray
    air: np.ndarray


def _lung(g: Grid, body: Body, side: str) -> np.ndarray:
    s, w = SIGN[side], body.half_width
    bottom, top = 0.95, body.apex
    t = np.clip((g.z - top) / (bottom - top), 0, 1)  # 0 apex .. 1 far below the dome
    profile = np.sin(np.pi * np.clip(0.003 + 0.66 * t, 0, 1)) ** 0.5  # narrow apex, wide base
    cx, rx = s * 0.50 * w, 0.50 * w * profile
    cy, ry = 0.02 + body.kyphosis * (g.z**2), (body.half_depth - 0.075 - 0.5 * body.fat) * (0.45 + 0.55 * profile)
    shell = soft(sphere_distance(((g.x - cx) / rx) ** 2 + ((g.y - cy) / ry) ** 2, 0.25))
    shell *= soft(top - g.z + 0.02)
    return shell * soft(g.z - dome(g, body, side))


def _torso(g: Grid, body: Body) -> tuple[np.ndarray, np.ndarray]:
    """How much of each voxel is inside the skin, and how much is inside the fat below it."""
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
        return soft((r - 1) * (0.4 / 2.6)), soft((r - skin**2.6) * (0.4 / (2.6 * skin**1.6)))
    near = (r > 0.45) & (r < 1.3)  # elsewhere both edges are far, whatever the root is
    r[near] **= 1 / 2.6
    return soft((r - 1) * 0.4), soft((r - 1 + 0.9 * body.fat) * 0.4)


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
    # The torso, and the breasts on it.
    mu = np.zeros(g.shape, np.float32)
    torso = np.empty_like(mu)
    for slab in g.slabs():
        torso[slab], inner = _torso(g.cut(slab), body)
        paint(mu[slab], torso[slab], FAT)
        paint(mu[slab], inner, TISSUE)
    for s in (-1, 1):
        box, breast = ellipsoid(g, (s * 0.36, -body.half_depth - 0.02, 0.22), (0.25, 0.05 + 0.11 * body.breast, 0.22))
        mu[box] += breast * (1 - torso[box]) * 0.85 * min(body.breast, 1.0)
    # The lungs, and what stands between them.
    lungs = {}
    air = np.zeros_like(mu)
    for side in SIGN:
        box = _lung_box(g, body, side)
        lungs[side] = box, _lung(g.cut(box), body, side)
        paint(mu[box], lungs[side][1], LUNG)
        air[box] += lungs[side][1]
    solid = _mediastinum(g, mu, body)
    air *= 1 - solid
    # Findings act on one lung at a time; last, the bubble of air in the stomach.
    for finding in findings:
        act, rng = FINDINGS.get(finding.label), rng_of(finding)
        for side in ("left", "right") if finding.side == "bilateral" else (finding.side,):
            if act is not None and side is not None:
                box, lung = lungs[side]
                part = LungPart(g.cut(box), mu[box], air[box], lung * (1 - solid[box]), body, side)
                act(part, finding, rng)
    box, bubble = ellipsoid(g, (0.33, -0.1, body.dome_left + 0.18), (0.13, 0.12, 0.06))
    paint(mu[box], bubble, 0.35)
    return Thorax(mu, air)


def _lung_box(g: Grid, body: Body, side: str) -> Box:
    """The voxels around a lung; all of them in version 1, whose findings reach a little further."""
    if g.version == 1:
        return slice(None), slice(None), slice(None)
    return g.box((SIGN[side] * 0.5, 0, 0.5 * (body.apex + 1)), (0.56, 1, 0.5 * (1 - body.apex) + 0.01))


def _mediastinum(g: Grid, mu: np.ndarray, body: Body) -> np.ndarray:
    """Mediastinum, heart, great vessels, hila, trachea; returns where they are."""
    solid = np.zeros(mu.shape, g.mask_dtype)

    def add(box: Box, part: np.ndarray) -> None:
        np.maximum(solid[box], part, out=solid[box], casting="same_kind")

    # The column between the lungs, wider below.
    box = g.box((0.01, 0.02, 0), (body.mediastinum * 1.3 * 1.23, 0.30 * 1.23, 1))
    near = g.cut(box)
    half = body.mediastinum * (1 + 0.3 * np.clip(near.z + 0.2, 0, 1))
    add(box, soft(sphere_distance(((near.x - 0.01) / half) ** 2 + ((near.y - 0.02) / 0.30) ** 2, 0.1)))
    # The heart: an ellipsoid whose long axis points down, left and forward.
    r, tilt = body.heart_radius, body.heart_tilt
    cx, cy, cz = body.heart_x, -0.12, min(body.dome_left, body.dome_right) - 0.10 - 0.35 * (r - 0.275)
    reach = 1.22 * r + 0.04
    box = g.box((cx, cy, cz), (reach, reach, reach))
    near = g.cut(box)
    cos, sin = np.array([np.cos(tilt), np.sin(tilt)], g.mask_dtype)
    along = (near.x - cx) * cos + (near.z - cz) * sin
    across = -(near.x - cx) * sin + (near.z - cz) * cos
    squares = (along / (1.22 * r)) ** 2 + (across / (0.90 * r)) ** 2 + ((near.y - cy) / (0.82 * r)) ** 2
    add(box, soft(sphere_distance(squares, r)))
    add(*ellipsoid(g, (cx - 0.55 * r - 0.02, -0.08, cz), (0.52 * r, 0.16, 0.72 * r)))  # right atrium
    # With age the aorta unfolds: the arch rises, and arch and descending part move to the left.
    arch = (0.11 + 0.04 * body.unfolding, 0.06, -0.42 - 0.04 * body.unfolding)
    add(*ellipsoid(g, arch, (body.aorta + 0.03, 0.12, body.aorta + 0.02)))
    box = g.box((0.12, 0.22, 0.25), (0.30, 0.25, 0.80))
    near = g.cut(box)
    descending = np.sqrt((near.x - 0.09 - 0.06 * body.unfolding) ** 2 + (near.y - 0.22) ** 2) - body.aorta
    add(box, soft(descending) * soft(-0.45 - near.z))
    add(*ellipsoid(g, (0.15, -0.04, -0.24), (0.075, 0.09, 0.09)))  # pulmonary trunk
    paint(mu, solid, TISSUE + 0.04)
    for s, z in ((1.0, -0.16), (-1.0, -0.12)):
        box, hilum = ellipsoid(g, (s * 0.20, 0.02, z), (0.09, 0.09, 0.12), 0.12)
        mu[box] += 0.45 * hilum * (1 - solid[box])
    box = g.box((-0.005, 0.04, -0.62), (0.07, 0.07, 0.40))
    near = g.cut(box)
    trachea = soft(np.sqrt((near.x + 0.005) ** 2 + (near.y - 0.04) ** 2) - 0.042) * soft(near.z + 0.26)
    paint(mu[box], trachea * (near.z > -0.98), 0.25)
    solid[box] -= trachea
    return np.clip(solid, 0, 1, out=solid)
