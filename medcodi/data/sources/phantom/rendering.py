"""Films of phantom version 2: the anatomy of version 1 with finer bones, vessels and devices, in a third of its time.

What takes version 1 its time is done once for all here: curves are sampled together, all points of a view are splatted together,
one cascade of narrow filters blurs every radius, and the volume's projection is resampled row by row, then column by column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from medcodi.data.sources.phantom import film, lines
from medcodi.data.sources.phantom.body import Body
from medcodi.data.sources.phantom.lines import TubeBundle
from medcodi.data.sources.phantom.painting import HALF_DEPTH, grid
from medcodi.data.sources.phantom.volume import build
from medcodi.study import Finding

GRID = grid(80, 38, 80, version=2)
RADII = (0.026, 0.018, 0.012, 0.008, 0.005)  # of all tubes but the upper arms, widest first
_SPACING = 1.6  # radii between the points of a tube: the sum of their Gaussians is smooth to 0.1 per cent
_PAD = 10  # voxels around the volume, where arms stick out of it


# ---- anatomy ---------------------------------------------------------------------------------------------------------
def bones(body: Body) -> list[TubeBundle]:
    """Ribs and clavicles with the two cortical edges that a film shows as lines, vertebrae with their end plates."""
    shell, _, clavicle, scapula = lines.ribs(body)
    vertebra, pedicle, sternum = lines.spine(body)
    edge, plate = np.array([0.0, 0.0, 0.019]), np.array([0.0, 0.0, 0.018])
    ends = vertebra.curves[::3], vertebra.curves[2::3]  # the upper and the lower bar of each vertebra
    return [
        TubeBundle(0.018, [(knots, 0.48 * peak) for knots, peak in shell.curves + clavicle.curves]),
        TubeBundle(
            0.008, [(k + s * edge, 0.48 * peak) for k, peak in shell.curves + clavicle.curves for s in (-1.0, 1.0)]
        ),
        TubeBundle(0.026, scapula.curves + sternum.curves + [(knots, 1.05 * peak) for knots, peak in vertebra.curves]),
        TubeBundle(0.008, [(k + s * plate, peak) for s, end in zip((-1.0, 1.0), ends, strict=True) for k, peak in end]),
        TubeBundle(0.012, [(knots, 0.8 * peak) for knots, peak in pedicle.curves]),
    ]


def vessels(body: Body) -> list[TubeBundle]:
    """Seven trunks from each hilum, each branching three times in two and getting thinner."""
    rng = np.random.default_rng(body.vessel_seed)
    fan = np.tile(np.linspace(-1.25, 1.25, 7), 2) + rng.normal(0, 0.12, 14)
    side = np.repeat([-1.0, 1.0], 7)
    start = np.stack([side * 0.17, np.full(14, 0.02), np.full(14, -0.15)], axis=1)
    heading = np.stack([side * np.cos(fan), rng.normal(0, 0.35, 14), np.sin(fan)], axis=1)
    bundles = []
    for radius, length, peak in zip(RADII[1:], (0.16, 0.13, 0.11, 0.09), (0.052, 0.046, 0.040, 0.032), strict=True):
        num = len(start)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        end = start + heading * (length * rng.uniform(0.8, 1.25, (num, 1)))
        middle = 0.5 * (start + end) + rng.normal(0, 0.010, (num, 3))  # a vessel bends a little half way
        bundles.append(TubeBundle(radius, [(knots, peak) for knots in np.stack([start, middle, end], axis=1)]))
        # Two branches from every end.
        start = np.repeat(end, 2, axis=0)
        heading = np.repeat(heading, 2, axis=0) + rng.normal(0, 0.42, (2 * num, 3)) * np.array([1, 0.8, 1])
    return bundles


def devices(
    body: Body, findings: Sequence[Finding], rng_of: Callable[[Finding], np.random.Generator]
) -> list[TubeBundle]:
    """The pacemaker of version 1 with the edges of metal."""
    sharp = {0.014: (0.008, 2.4), 0.0075: (0.005, 1.7)}
    bundles = []
    for bundle in lines.devices(body, findings, rng_of):
        radius, factor = sharp[bundle.radius]
        bundles.append(TubeBundle(radius, [(knots, factor * peak) for knots, peak in bundle.curves]))
    return bundles


# ---- projection ------------------------------------------------------------------------------------------------------
def project(
    body: Body,
    findings: Sequence[Finding],
    rng_of: Callable[[Finding], np.random.Generator],
    size: int,
) -> dict[str, np.ndarray]:
    """Integrate a patient's attenuation along the rays of every view.

    Args:
        body: The patient.
        findings: What the patient has.
        rng_of: Generator that places a finding and draws its texture.
        size: Pixels a side.

    Returns:
        View -> float32 ``[size, size]``, in units of tissue half-films.
    """
    thorax = build(body, findings, rng_of, GRID)
    # Points of all thin structures; vessels are seen where there is air around them.
    body_tubes = _sampled([*bones(body), *devices(body, findings, rng_of)])
    points, weight, level = _sampled(vessels(body))
    weight *= lines.value_at(thorax.air, points)
    tubes = [body_tubes, (points, weight, level)]
    origin = np.array(body.shift)
    paths = {}
    for name, view in film.VIEWS.items():
        flesh, bone = lines.arms(body, name)
        coarse = thorax.mu.sum(axis=view.along) * (2 * view.half / thorax.mu.shape[view.along])  # [NZ, NX] or [NZ, NY]
        coarse += _wide(flesh, view.axes[0], coarse.shape)
        path = _resampled(coarse, view.axes[0], size, origin)
        arm = _sampled([TubeBundle(RADII[0], [(knots, 1.2 * peak) for knots, peak in bone.curves])])
        points, weight, level = (np.concatenate(column) for column in zip(*tubes, arm, strict=True))
        path += _thin(points - origin, weight, level, view.axes, size)
        paths[name] = np.clip(path, 0, None, out=path)
    return paths


def _sampled(bundles: Sequence[TubeBundle]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points ``[N, 3]`` along all curves, the attenuation each adds ``[N]``, and the index of its radius ``[N]``."""
    parts = []
    for bundle in bundles:
        for num_knots in sorted({len(knots) for knots, _ in bundle.curves}):
            curves = [curve for curve in bundle.curves if len(curve[0]) == num_knots]
            points, weight = _along(curves, bundle.radius)
            parts.append((points, weight, np.full(len(points), RADII.index(bundle.radius))))
    points, weight, level = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return points, weight, level


def _along(curves: Sequence[lines.Curve], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Points ``[N, 3]`` along smooth curves through as many knots each, and the attenuation each point adds."""
    knots, peaks = np.stack([knots for knots, _ in curves]), np.array([peak for _, peak in curves])  # [C, K, 3], [C]
    longest = np.sqrt((np.diff(knots, axis=1) ** 2).sum(-1)).sum(1).max()
    num_points = 8 * max(2, int(np.ceil(longest / (8 * _SPACING * radius))))
    curve = np.einsum("mk,ckd->cmd", _smooth(knots.shape[1], num_points), knots)
    # A point in the middle of each piece stands for its length.
    pieces = np.diff(curve, axis=1)
    middle = curve[:, :-1] + 0.5 * pieces
    weight = np.sqrt((pieces**2).sum(-1)) * (peaks[:, None] * np.sqrt(2 * np.pi) * radius)
    return middle.reshape(-1, 3), weight.ravel()


@lru_cache(maxsize=64)
def _smooth(num_knots: int, num_points: int) -> np.ndarray:
    """Weights ``[num_points, num_knots]`` of a curve: linear between the knots, corners smoothed as in version 1."""
    t, at = np.linspace(0, num_knots - 1, num_points), np.arange(num_knots)
    weights = np.stack([np.interp(t, at, row) for row in np.eye(num_knots)], axis=1)
    if num_knots == 2:
        return weights
    return ndimage.gaussian_filter1d(weights, 3.0 * num_points / (8 * num_knots), axis=0, mode="nearest")


def _thin(points: np.ndarray, weight: np.ndarray, level: np.ndarray, axes: tuple[int, int], size: int) -> np.ndarray:
    """Line integrals of tubes of :data:`RADII` around the middle of a film, float32 ``[size, size]``."""
    u, v = ((points[:, axis] + 1) * (size / 2) - 0.5 for axis in axes)
    layers = _splat(u, v, weight, level, (size, size), len(RADII))
    # From wide to narrow: each filter adds what is left between two radii, so one cascade blurs all.
    image = np.zeros((size, size), np.float32)
    for layer, radius, narrower in zip(layers, RADII, (*RADII[1:], 0.0), strict=True):
        image += layer
        sigma = np.sqrt(radius**2 - narrower**2) * size / 2
        image = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3.0)
    image *= (size / 2) ** 2
    return image


def _wide(bundle: TubeBundle, across: int, shape: tuple[int, int]) -> np.ndarray:
    """Line integrals of wide tubes at the resolution of the volume, float32 ``[NZ, NX]`` or ``[NZ, NY]``."""
    rows, columns = shape
    half = HALF_DEPTH if across == 1 else 1.0
    points, weight = _along(bundle.curves, bundle.radius)
    u = (points[:, across] / half + 1) / 2 * columns - 0.5 + _PAD
    v = (points[:, 2] + 1) / 2 * rows - 0.5 + _PAD
    layer = _splat(u, v, weight, np.zeros(len(u), int), (rows + 2 * _PAD, columns + 2 * _PAD), 1)[0]
    sigma = (bundle.radius * rows / 2, bundle.radius * columns / (2 * half))
    blurred = ndimage.gaussian_filter(layer, sigma, mode="constant", truncate=2.5)
    return blurred[_PAD:-_PAD, _PAD:-_PAD] * (rows / 2 * columns / (2 * half))  # per area


def _splat(
    u: np.ndarray, v: np.ndarray, weight: np.ndarray, level: np.ndarray, shape: tuple[int, int], levels: int
) -> np.ndarray:
    """Bilinear: the weight of every point is shared by four pixels; float32 ``[levels, rows, columns]``."""
    rows, columns = shape[0] + 2, shape[1] + 2  # a margin for what is only partly on the film
    inside = (u > -1) & (u < shape[1]) & (v > -1) & (v < shape[0])
    u, v, weight, level = (values[inside] for values in (u + 1, v + 1, weight, level))
    i, j = u.astype(int), v.astype(int)
    fu, fv = u - i, v - j
    # All layers and all four neighbours in one count.
    first = (level * rows + j) * columns + i
    right, below = weight * fu, fv
    place = np.concatenate([first, first + 1, first + columns, first + columns + 1])
    left = weight - right
    share = np.concatenate([left * (1 - below), right * (1 - below), left * below, right * below])
    layers = np.bincount(place, weights=share, minlength=levels * rows * columns)
    return layers.reshape(levels, rows, columns)[:, 1:-1, 1:-1].astype(np.float32)


def _resampled(coarse: np.ndarray, across: int, size: int, origin: np.ndarray) -> np.ndarray:
    """The volume's projection at film resolution by cubic splines, float32 ``[size, size]``; 0 beside the volume."""
    half = HALF_DEPTH if across == 1 else 1.0
    pixels = (np.arange(size) + 0.5) / size * 2 - 1
    columns = ((pixels + origin[across]) / half + 1) / 2 * coarse.shape[1] - 0.5
    rows = ((pixels + origin[2]) + 1) / 2 * coarse.shape[0] - 0.5
    smooth = ndimage.spline_filter(coarse, order=3, output=np.float32)  # pyright: ignore[reportArgumentType]
    # [NZ, N] -> [NZ, size] -> [size, size]
    places, shares = _taps(columns, coarse.shape[1])
    shares *= (columns > -0.5) & (columns < coarse.shape[1] - 0.5)
    wide: Any = sum(smooth[:, place] * share for place, share in zip(places, shares, strict=True))
    places, shares = _taps(rows, coarse.shape[0])
    film: Any = sum(wide[place] * share[:, None] for place, share in zip(places, shares, strict=True))
    return film


def _taps(positions: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The four samples that a cubic B-spline reads at each position, and their weights, both ``[4, N]``."""
    first = np.floor(positions).astype(int)
    t = (positions - first).astype(np.float32)
    weights = np.stack([(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]) / np.float32(6)
    return np.clip(first + np.arange(-1, 3)[:, None], 0, num - 1), weights


# ---- exposure --------------------------------------------------------------------------------------------------------
def expose(path: np.ndarray, exposure: film.Exposure, rng: np.random.Generator) -> np.ndarray:
    """As :func:`film.expose`: the scatter by running means, the reference from every fourth pixel."""
    size = path.shape[0]
    body = path[::2, ::2]
    primary = film.transmitted(path, body[body > 0.2])
    # Three running means are a Gaussian, at a cost that does not grow with its width.
    scatter, width = primary, round(0.06 * size * 2) | 1
    for _ in range(3):
        for axis in (0, 1):
            scatter = ndimage.uniform_filter1d(scatter, width, axis=axis, mode="nearest")
    grain = rng.standard_normal((size, size), dtype=np.float32)
    return film.develop(primary, scatter, grain, exposure, exposure.noise * math.sqrt(size / 128))
