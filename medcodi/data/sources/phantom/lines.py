"""Thin structures at film resolution: bones, vessels, devices, as tubes of Gaussian density.

The line integrals of such a tube are Gaussian, too. It is a row of points; splatting the points on a film and blurring
by the tube's radius is its exact projection, so the picture is the same body at every film size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medcodi.data.sources.phantom.body import Body
from medcodi.data.sources.phantom.painting import HALF_DEPTH, SIGN
from medcodi.data.sources.phantom.volume import Thorax
from medcodi.study import Finding

STEP = 0.012  # between points of a tube
Curve = tuple[np.ndarray, float]  # knots [K, 3], and the line integral across the tube's middle


@dataclass(frozen=True)
class TubeBundle:
    """Curves of tubes of one radius."""

    radius: float
    curves: list[Curve]


@dataclass(frozen=True)
class Tubes:
    """Points ``[N, 3]`` with the attenuation each adds, all of one radius."""

    radius: float
    points: np.ndarray
    weight: np.ndarray


def _tube(knots: np.ndarray, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """Points ``[N, 3]``, equally spaced along a smooth curve through knots ``[K, 3]``, and weights ``[N]``: peak times length."""
    # Interpolate between the knots and smooth the corners.
    num_knots = len(knots)
    t = np.linspace(0, num_knots - 1, 8 * num_knots)
    curve = np.stack([np.interp(t, np.arange(num_knots), knots[:, axis]) for axis in range(3)], axis=1)
    curve = ndimage.gaussian_filter1d(curve, 3.0, axis=0, mode="nearest") if num_knots > 2 else curve
    # Resample at equal distances along the curve.
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    num = max(2, int(length[-1] / STEP))
    along = np.linspace(0, length[-1], num)
    points = np.stack([np.interp(along, length, curve[:, axis]) for axis in range(3)], axis=1)
    return points, np.full(num, peak * length[-1] / num)


def sampled(bundles: Sequence[TubeBundle]) -> list[Tubes]:
    """Points along the curves, curve by curve."""
    result = []
    for bundle in bundles:
        tubes = [_tube(knots, peak) for knots, peak in bundle.curves]
        weight = np.concatenate([weight for _, weight in tubes]) * (np.sqrt(2 * np.pi) * bundle.radius)
        result.append(Tubes(bundle.radius, np.concatenate([points for points, _ in tubes]), weight))
    return result


def ribs(body: Body) -> list[TubeBundle]:
    """Ten pairs of ribs as cortical shells (a wide tube less a narrower one inside), sternum, clavicles, scapulae."""
    # Ribs: the hollow tube is subtracted from the shell, which leaves the cortex.
    bone, shell, hollow = body.bone, [], []
    for number in range(10):
        t = number / 9
        z0 = body.apex + 0.03 + 1.18 * t
        # The chest widens from the apex down to about the seventh rib.
        reach = body.half_width * (0.50 + 0.50 * np.sin(np.pi * min(0.5, 0.16 + 0.75 * t))) + 0.01
        deep = body.half_depth * (0.70 + 0.30 * np.sin(np.pi * min(0.5, 0.2 + 0.6 * t))) - 0.01
        for s in (-1.0, 1.0):
            # From the spine around the side to the front, sloping down.
            angles = np.linspace(0.06, 0.86 if number < 7 else 0.72, 14) * np.pi
            x = s * (reach * np.sin(angles) ** 0.85)
            y = deep * np.cos(angles) + body.kyphosis * z0**2
            z = z0 + body.rib_slope * (angles / np.pi) ** 1.15 * (0.55 + 0.75 * t) - 0.03 * np.sin(2 * angles)
            knots = np.stack([x, y, z], axis=1)
            shell.append((knots, 0.075 * bone))
            hollow.append((knots, -0.035 * bone))
    # Shoulder girdle, lowered by the patient's shoulder drop.
    clavicle, scapula = [], []
    for s in (-1.0, 1.0):
        drop = body.shoulder_drop
        collar = [
            (s * 0.07, -0.30, body.apex + 0.10),
            (s * 0.25, -0.32, body.apex + 0.06),
            (s * 0.45, -0.18, body.apex - 0.03),
            (s * 0.66, -0.05, body.apex - 0.02 + drop),
        ]
        blade = [
            (s * 0.80, 0.12, -0.62 + drop),
            (s * 0.76, 0.30, -0.30),
            (s * 0.62, 0.36, 0.02),
            (s * 0.56, 0.38, -0.30),
            (s * 0.60, 0.34, -0.60),
        ]
        clavicle.append((np.array(collar), 0.075 * bone))
        scapula.append((np.array(blade), 0.035 * bone))
    return [
        TubeBundle(0.026, shell),
        TubeBundle(0.014, hollow),
        TubeBundle(0.026, clavicle),
        TubeBundle(0.030, scapula),
    ]


def spine(body: Body) -> list[TubeBundle]:
    """Vertebral bodies with discs between, pedicles, spinous processes; the sternum in front."""
    # Eighteen vertebrae along the kyphosis; the gaps between them are the discs.
    vertebra, pedicle = [], []
    for number in range(18):
        z = -1.05 + 0.118 * number
        y = 0.32 + body.kyphosis * z**2 * 1.2
        for dz in (-0.028, 0.0, 0.028):
            vertebra.append((np.array([(-0.055, y, z + dz), (0.055, y, z + dz)]), 0.042 * body.bone))
        for s in (-1.0, 1.0):
            pedicle.append(
                (np.array([(s * 0.062, y + 0.05, z - 0.015), (s * 0.062, y + 0.09, z + 0.015)]), 0.06 * body.bone)
            )
        pedicle.append((np.array([(0, y + 0.11, z), (0, y + 0.17, z + 0.06)]), 0.05 * body.bone))
    # Segments of the sternum.
    front = -body.half_depth
    sternum = [
        (np.array([(0, front - 0.01, z - 0.05), (0, front - 0.012, z + 0.05)]), 0.07 * body.bone)
        for z in np.arange(-0.5, 0.2, 0.115)
    ]
    return [TubeBundle(0.030, vertebra), TubeBundle(0.016, pedicle), TubeBundle(0.026, sternum)]


def vessels(body: Body, thorax: Thorax) -> list[Tubes]:
    """Branching vessels from the hila, thinner with every branching, only where there is air around them."""
    rng = np.random.default_rng(body.vessel_seed)
    classes: list[list[Curve]] = [[], [], []]
    for s in (-1.0, 1.0):
        root = np.array([s * 0.17, 0.02, -0.15])
        # Seven trunks fan out from each hilum, each branching twice in two.
        fan = np.linspace(-1.25, 1.25, 7) + rng.normal(0, 0.12, 7)
        heads = [(root, np.array([s * np.cos(a), rng.normal(0, 0.35), np.sin(a)])) for a in fan]
        for level, (length, weight) in enumerate(((0.17, 0.045), (0.14, 0.032), (0.13, 0.024))):
            grown = []
            for start, heading in heads:
                heading = heading / np.linalg.norm(heading)
                end = start + heading * length * rng.uniform(0.8, 1.25)
                # A vessel bends a little half way.
                bend = 0.5 * (start + end) + rng.normal(0, 0.012, 3)
                classes[level].append((np.array([start, bend, end]), weight))
                for _ in range(2):
                    grown.append((end, heading + rng.normal(0, 0.45, 3) * np.array([1, 0.8, 1])))
            heads = grown
    bundles = [TubeBundle(radius, group) for radius, group in zip((0.020, 0.013, 0.009), classes, strict=True)]
    tubes = sampled(bundles)
    return [Tubes(t.radius, t.points, t.weight * value_at(thorax.air, t.points)) for t in tubes]


def value_at(volume: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Value of a volume ``[nz, ny, nx]`` at points ``[N, 3]``, nearest voxel."""
    nz, ny, nx = volume.shape
    # [x, y, z] in body units -> voxel indices [k, j, i].
    i = np.clip(((points[:, 0] + 1) / 2 * nx).astype(int), 0, nx - 1)
    j = np.clip(((points[:, 1] / HALF_DEPTH + 1) / 2 * ny).astype(int), 0, ny - 1)
    k = np.clip(((points[:, 2] + 1) / 2 * nz).astype(int), 0, nz - 1)
    return volume[k, j, i]


def devices(
    body: Body, findings: Sequence[Finding], rng_of: Callable[[Finding], np.random.Generator]
) -> list[TubeBundle]:
    """A pacemaker under the skin of the upper chest, its two leads through the veins into the heart."""
    bundles = []
    for finding in findings:
        if finding.label != "Support Devices" or finding.side not in SIGN:
            continue
        s, rng = SIGN[finding.side], rng_of(finding)
        x, z, y = s * float(rng.normal(0.50, 0.02)), -0.44 + float(rng.normal(0, 0.02)), -body.half_depth - 0.03
        # The generator: a stack of bars with rounded ends, slightly rotated.
        turn = float(rng.normal(0, 0.3))
        box = []
        for v in np.linspace(-1, 1, 11):
            half = 0.085 * np.sqrt(max(0.0, 1 - 0.75 * v**2))
            dx, dz = np.cos(turn) * half, np.sin(turn) * half
            cx, cz = x - np.sin(turn) * v * 0.062, z + np.cos(turn) * v * 0.062
            box.append((np.array([(cx - dx, y, cz - dz), (cx + dx, y, cz + dz)]), 0.16))
        # The leads: through the subclavian vein into the ventricle and the atrium.
        r = body.heart_radius
        base = min(body.dome_left, body.dome_right) - 0.10
        vein = [
            (x, y + 0.02, z - 0.07),
            (s * 0.30, -0.16, -0.66),
            (s * 0.12 - 0.02, -0.05, -0.56),
            (-0.09, -0.02, -0.36),
            (-0.10, -0.03, -0.10),
        ]
        tip = (body.heart_x + 0.85 * r, -0.24, base + 0.45 * r)
        ventricle = [*vein, (-0.09, -0.05, base - 0.05), (0.02, -0.12, base + 0.12), tip]
        atrium = [*vein, (-0.13, -0.12, base - 0.12)]
        lead = [(np.array(ventricle), 0.16), (np.array(atrium), 0.14)]
        bundles += [TubeBundle(0.014, box), TubeBundle(0.0075, lead)]
    return bundles


def arms(body: Body, view: str) -> list[TubeBundle]:
    """Upper arms: hanging beside the chest in the frontal, raised in front of the head in the lateral."""
    flesh, bone = [], []
    for s in (-1.0, 1.0):
        drop = body.shoulder_drop
        if view == "frontal":
            line = [(s * 0.86, 0.05, -0.52 + drop), (s * 1.06, 0.05, -0.1), (s * 1.14, 0.02, 0.6)]
            head = [(s * 0.83, 0.06, -0.62 + drop), (s * 0.90, 0.06, -0.52 + drop)]
        else:
            line = [(s * 0.62, 0.02, -0.70), (s * 0.66, -0.20, -0.95), (s * 0.66, -0.36, -1.15)]
            head = [(s * 0.62, 0.05, -0.70), (s * 0.62, 0.0, -0.76)]
        flesh.append((np.array(line), 0.34))
        bone.append((np.array(line), 0.09 * body.bone))
        bone.append((np.array(head), 0.09 * body.bone))
    return [TubeBundle(0.13 + 0.05 * body.habitus, flesh), TubeBundle(0.035, bone)]


def project(tubes: Sequence[Tubes], axes: tuple[int, int], size: int, origin: np.ndarray) -> np.ndarray:
    """Line integrals of tubes on a film, float32 ``[size, size]``.

    Args:
        tubes: The body's thin structures.
        axes: Which of x, y, z runs across and down the film.
        size: Pixels a side.
        origin: Point ``[3]`` that falls on the middle of the film.
    """
    film = np.zeros((size, size), np.float32)
    by_radius: dict[float, list[Tubes]] = {}
    for tube in tubes:
        by_radius.setdefault(tube.radius, []).append(tube)
    for radius, group in by_radius.items():
        # Splat the points, then blur by the radius: the exact projection of Gaussian tubes.
        points = np.concatenate([tube.points for tube in group]) - origin
        weight = np.concatenate([tube.weight for tube in group])
        u, v = (((points[:, axis] + 1) / 2 * size) - 0.5 for axis in axes)
        layer = _splat(u, v, weight, size)
        sigma = radius * size / 2
        film += ndimage.gaussian_filter(layer, sigma, mode="constant", truncate=3.0) * (size / 2) ** 2
    return film


def _splat(u: np.ndarray, v: np.ndarray, weight: np.ndarray, size: int) -> np.ndarray:
    """Bilinear: every point's weight is shared by the four pixels around it."""
    pad = size + 2
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    # Fractions of a pixel; points outside the film are dropped.
    fu, fv = u - i, v - j
    layer = np.zeros(pad * pad)
    for di, wu in ((0, 1 - fu), (1, fu)):
        for dj, wv in ((0, 1 - fv), (1, fv)):
            a, b = i + di + 1, j + dj + 1
            keep = (a >= 0) & (a < pad) & (b >= 0) & (b < pad)
            layer += np.bincount(b[keep] * pad + a[keep], weights=(weight * wu * wv)[keep], minlength=pad * pad)
    return layer.reshape(pad, pad)[1:-1, 1:-1].astype(np.float32)
