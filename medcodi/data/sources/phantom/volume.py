"""The coarse attenuation volume: organs painted in order with soft edges, each replacing what was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medcodi.data.sources.phantom.body import Body
from medcodi.study import Finding

NX, NY, NZ = 76, 40, 76
HALF_DEPTH = 0.72  # of the volume, in y
X = (((np.arange(NX) + 0.5) / NX) * 2 - 1).astype(np.float32)[None, None, :]
Y = ((((np.arange(NY) + 0.5) / NY) * 2 - 1) * HALF_DEPTH).astype(np.float32)[None, :, None]
Z = (((np.arange(NZ) + 0.5) / NZ) * 2 - 1).astype(np.float32)[:, None, None]
EDGE = 0.045
TISSUE, FAT, LUNG, AIR, FLUID = 1.0, 0.86, 0.24, 0.0, 1.0
SIGN = {"left": 1.0, "right": -1.0}
LOBE_CENTRE = {  # z within the lung (0 apex .. 1 base), y
    "upper": (0.28, -0.05),
    "middle": (0.66, -0.17),
    "lower": (0.74, 0.14),
}


@dataclass(frozen=True)
class Thorax:
    """Attenuation per unit of length, and where the lungs' air is, both ``[NZ, NY, NX]``."""

    mu: np.ndarray
    air: np.ndarray


def _soft(distance: np.ndarray, edge: float = EDGE) -> np.ndarray:
    """1 inside, 0 outside, linear over the edge; ``distance`` is negative inside."""
    return np.clip(0.5 - distance / edge, 0.0, 1.0)


def _ellipsoid(centre: Sequence[float], radii: Sequence[float], edge: float = EDGE) -> np.ndarray:
    (cx, cy, cz), (rx, ry, rz) = centre, radii
    r = np.sqrt(((X - cx) / rx) ** 2 + ((Y - cy) / ry) ** 2 + ((Z - cz) / rz) ** 2)
    return _soft((r - 1) * min(radii), edge)


def dome(body: Body, side: str) -> np.ndarray:
    """Height z of a hemidiaphragm over (y, x): highest in the middle and front, steep to the sides and the back."""
    top = body.dome_left if side == "left" else body.dome_right
    u = (X - SIGN[side] * 0.36 * body.half_width / 0.68) / 0.40
    v = (Y + 0.06) / 0.42
    fall = 0.16 * u**2 + 0.10 * np.maximum(u * SIGN[side], 0) ** 4 + np.where(v > 0, 0.26, 0.10) * v**2
    return top + fall  # [1, NY, NX]


def _lung(body: Body, side: str) -> np.ndarray:
    s, w = SIGN[side], body.half_width
    bottom, top = 0.95, body.apex
    t = np.clip((Z - top) / (bottom - top), 0, 1)  # 0 apex .. 1 far below the dome
    profile = np.sin(np.pi * np.clip(0.003 + 0.66 * t, 0, 1)) ** 0.5  # narrow apex, wide base
    cx, rx = s * 0.50 * w, 0.50 * w * profile
    cy, ry = 0.02 + body.kyphosis * (Z**2), (body.half_depth - 0.075 - 0.5 * body.fat) * (0.45 + 0.55 * profile)
    r = np.sqrt(((X - cx) / rx) ** 2 + ((Y - cy) / ry) ** 2)
    shell = _soft((r - 1) * 0.25)
    return shell * _soft(top - Z + 0.02) * _soft(Z - dome(body, side))


def _torso(body: Body) -> tuple[np.ndarray, np.ndarray]:
    waist = body.half_width + 0.07 + body.fat
    neck = 0.22 + 0.05 * body.habitus
    rise = 1 / (1 + np.exp((Z + 0.80 + body.shoulder_drop) / 0.035))  # 1 above the shoulders
    shoulder = 0.32 * np.exp(-(((Z + 0.58 + body.shoulder_drop) / 0.20) ** 2))
    half_width = neck * rise + (waist + shoulder + 0.05 * np.clip(Z, 0, 1)) * (1 - rise)
    half_depth = (body.half_depth + 0.05 + body.fat) * (1 - 0.55 * rise) * (1 - 0.16 * np.clip(-Z - 0.35, 0, 1))
    cy = body.kyphosis * Z**2 + 0.10 * rise
    r = (np.abs(X / half_width) ** 2.6 + np.abs((Y - cy) / half_depth) ** 2.6) ** (1 / 2.6)
    torso = _soft((r - 1) * 0.4)
    inner = _soft((r - 1 + 0.9 * body.fat) * 0.4)
    return torso, inner


def build(body: Body, findings: Sequence[Finding], rng_of: Callable[[Finding], np.random.Generator]) -> Thorax:
    """Paint a thorax with its findings.

    Args:
        body: The patient.
        findings: What acts inside the lungs and pleura.
        rng_of: Generator of a finding's place and texture.
    """
    mu = np.zeros((NZ, NY, NX), np.float32)
    torso, inner = _torso(body)
    _paint(mu, torso, FAT)
    _paint(mu, inner, TISSUE)
    for s in (-1, 1):
        breast = _ellipsoid((s * 0.36, -body.half_depth - 0.02, 0.22), (0.25, 0.05 + 0.11 * body.breast, 0.22))
        mu += breast * (1 - torso) * 0.85 * min(body.breast, 1.0)
    lungs = {side: _lung(body, side) for side in SIGN}
    air = np.zeros_like(mu)
    for lung in lungs.values():
        _paint(mu, lung, LUNG)
        air += lung
    solid = _mediastinum(mu, body)
    air *= 1 - solid
    for finding in findings:
        act, rng = _ACTS.get(finding.label), rng_of(finding)
        for side in ("left", "right") if finding.side == "bilateral" else (finding.side,):
            if act is not None and side is not None:
                act(mu, air, lungs[side] * (1 - solid), body, side, finding, rng)
    bubble = _ellipsoid((0.33, -0.1, body.dome_left + 0.18), (0.13, 0.12, 0.06))
    _paint(mu, bubble, 0.35)
    return Thorax(mu, air)


def _paint(mu: np.ndarray, mask: np.ndarray, value: float | np.ndarray) -> None:
    mu += mask * (value - mu)


def _mediastinum(mu: np.ndarray, body: Body) -> np.ndarray:
    """Mediastinum, heart, great vessels, hila, trachea; returns where they are."""
    solid = np.zeros_like(mu)
    half = body.mediastinum * (1 + 0.3 * np.clip(Z + 0.2, 0, 1))
    column = _soft((np.sqrt(((X - 0.01) / half) ** 2 + ((Y - 0.02) / 0.30) ** 2) - 1) * 0.1)
    solid = np.maximum(solid, column)
    # heart: an ellipsoid whose long axis points down, left and forward
    r, tilt = body.heart_radius, body.heart_tilt
    cx, cy, cz = body.heart_x, -0.12, min(body.dome_left, body.dome_right) - 0.10 - 0.35 * (r - 0.275)
    along = (X - cx) * np.cos(tilt) + (Z - cz) * np.sin(tilt)
    across = -(X - cx) * np.sin(tilt) + (Z - cz) * np.cos(tilt)
    reach = np.sqrt((along / (1.22 * r)) ** 2 + (across / (0.90 * r)) ** 2 + ((Y - cy) / (0.82 * r)) ** 2)
    heart = _soft((reach - 1) * r)
    right_atrium = _ellipsoid((cx - 0.55 * r - 0.02, -0.08, cz), (0.52 * r, 0.16, 0.72 * r))
    # With age the aorta unfolds: the arch rises, and arch and descending part move to the left.
    knob = _ellipsoid(
        (0.11 + 0.04 * body.unfolding, 0.06, -0.42 - 0.04 * body.unfolding),
        (body.aorta + 0.03, 0.12, body.aorta + 0.02),
    )
    descending = _soft(np.sqrt((X - 0.09 - 0.06 * body.unfolding) ** 2 + (Y - 0.22) ** 2) - body.aorta) * _soft(
        -0.45 - Z
    )
    pulmonary = _ellipsoid((0.15, -0.04, -0.24), (0.075, 0.09, 0.09))
    for part in (heart, right_atrium, knob, descending, pulmonary):
        solid = np.maximum(solid, part)
    _paint(mu, solid, TISSUE + 0.04)
    for s, z in ((1.0, -0.16), (-1.0, -0.12)):
        mu += 0.45 * _ellipsoid((s * 0.20, 0.02, z), (0.09, 0.09, 0.12), 0.12) * (1 - solid)
    trachea = _soft(np.sqrt((X + 0.005) ** 2 + (Y - 0.04) ** 2) - 0.042) * _soft(Z + 0.26)
    _paint(mu, trachea * (Z > -0.98), 0.25)
    return np.clip(solid - trachea, 0, 1)


def _centre(body: Body, side: str, finding: Finding, rng: np.random.Generator) -> tuple[float, float, float]:
    depth, y = LOBE_CENTRE[finding.location or "lower"]
    base = body.dome_left if side == "left" else body.dome_right
    z = body.apex + 0.10 + (base - body.apex - 0.05) * depth + float(rng.normal(0, 0.03))
    x = SIGN[side] * body.half_width * (0.50 + float(rng.normal(0, 0.05)))
    return x, y + float(rng.normal(0, 0.03)), z


def _effusion(
    mu: np.ndarray, air: np.ndarray, lung: np.ndarray, body: Body, side: str, finding: Finding, rng: np.random.Generator
) -> None:
    height = {"small": 0.17, "moderate": 0.37, "large": 0.66}[finding.size or "moderate"] * float(
        rng.uniform(0.92, 1.08)
    )
    base = (body.dome_left if side == "left" else body.dome_right) + 0.20
    # the meniscus: up the sides and the back
    edge = np.clip((np.abs(X) / body.half_width) ** 3, 0, 1.3) * 0.13 + np.clip(Y, 0, 1) * 0.25
    fluid = lung * _soft(base - height - edge - Z, 0.06)
    _paint(mu, fluid, FLUID)
    air *= 1 - fluid


def _pneumothorax(
    mu: np.ndarray, air: np.ndarray, lung: np.ndarray, body: Body, side: str, finding: Finding, rng: np.random.Generator
) -> None:
    gap = {"small": 0.10, "moderate": 0.18, "large": 0.30}[finding.size or "moderate"] * float(rng.uniform(0.93, 1.07))
    top = _centre(body, side, Finding(label="", location="upper"), rng)
    w = body.half_width
    cx = SIGN[side] * (0.46 * w - 0.35 * gap)
    across, deep = (X - cx) / (0.46 * w - 0.55 * gap), (Y - 0.02) / (body.half_depth - 0.08 - 0.3 * gap)
    r = np.sqrt(across**2 + deep**2 + (np.minimum(Z - (top[2] + 1.6 * gap + 0.12), 0) / 0.34) ** 2)
    outside = _soft((1 - r) * 0.22, 0.03) * lung
    pleura = np.exp(-(((r - 1) * 0.22 / 0.018) ** 2)) * lung
    _paint(mu, outside, 0.03)
    inside = lung * (1 - outside)
    mu += inside * 0.10
    mu += pleura * 0.35
    air *= 1 - outside


def _consolidation(
    mu: np.ndarray, air: np.ndarray, lung: np.ndarray, body: Body, side: str, finding: Finding, rng: np.random.Generator
) -> None:
    x, y, z = _centre(body, side, finding, rng)
    blob = np.zeros_like(mu)
    for _ in range(5):
        dx, dy, dz = rng.normal(0, 0.06, 3)
        blob = np.maximum(blob, _ellipsoid((x + dx, y + dy, z + dz), (0.15, 0.16, 0.13), 0.12))
    _paint(mu, blob * lung * 0.9, 0.92)
    air *= 1 - 0.8 * blob


def _edema(
    mu: np.ndarray, air: np.ndarray, lung: np.ndarray, body: Body, side: str, finding: Finding, rng: np.random.Generator
) -> None:
    strength = {"small": 0.16, "moderate": 0.28, "large": 0.42}[finding.size or "moderate"]
    bat = np.exp(-(((np.abs(X) - 0.24) / 0.26) ** 2) - ((Z + 0.02) / 0.42) ** 2 - (Y / 0.45) ** 2)
    mu += lung * strength * (0.30 + 1.0 * bat)


def _lesion(
    mu: np.ndarray, air: np.ndarray, lung: np.ndarray, body: Body, side: str, finding: Finding, rng: np.random.Generator
) -> None:
    radius = {"small": 0.055, "moderate": 0.08, "large": 0.115}[finding.size or "moderate"]
    x, y, z = _centre(body, side, finding, rng)
    ball = _ellipsoid((x + float(rng.normal(0, 0.05)), y, z), (radius, radius * 1.25, radius), 0.04)
    mu += ball * np.clip(1.25 - mu, 0, None)
    air *= 1 - ball


def _atelectasis(
    mu: np.ndarray, air: np.ndarray, lung: np.ndarray, body: Body, side: str, finding: Finding, rng: np.random.Generator
) -> None:
    surface = dome(body, side) - 0.07 + 0.10 * (np.abs(X) - 0.3)
    plate = np.exp(-(((Z - surface) / 0.035) ** 2)) * (np.abs(X) > 0.16) * (np.abs(X) < body.half_width - 0.10)
    mu += lung * plate * 0.85


_ACTS = {
    "Pleural Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Lung Lesion": _lesion,
    "Atelectasis": _atelectasis,
}
