"""Findings inside the lungs and the pleura: each changes the attenuation and the air of one side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from medcodi.data.sources.phantom.body import Body
from medcodi.data.sources.phantom.painting import SIGN, Grid, dome, ellipsoid, paint, soft
from medcodi.study import Finding

FLUID = 1.0
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
    # the meniscus: up the sides and the back
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
