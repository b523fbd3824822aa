"""The views of a film, and from line integrals to it: Beer-Lambert, scatter, quantum noise, exposure, the marker letter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medcodi.data.sources.phantom.painting import HALF_DEPTH

OPTICAL_THICKNESS = 3.0  # of the reference path; the automatic exposure control brings every film near it
REFERENCE_PERCENTILE = 80  # of the paths through the body: which one is the reference


@dataclass(frozen=True, kw_only=True)
class FilmGeometry:
    """The geometry between a film and the body, whose volume is indexed [z, y, x] and whose points are (x, y, z)."""

    along: int  # axis of the volume that the rays follow
    half: float  # of the volume's extent along it
    axes: tuple[int, int]  # which of x, y, z runs across and down the film
    marker: str


VIEWS = {
    "frontal": FilmGeometry(along=1, half=HALF_DEPTH, axes=(0, 2), marker="R"),
    "lateral": FilmGeometry(along=2, half=1.0, axes=(1, 2), marker="L"),
}


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """How one film was taken."""

    gain: float  # added to the grey level
    contrast: float  # factor around middle grey
    scatter: float  # share of the transmitted light that is spread over the film
    noise: float  # of the quanta, at 128 pixels a side
    marker: str  # letter on the film
    marker_at: tuple[float, float]  # its middle, across and down, from 0 to 1
    collimation: tuple[float, float, float, float]  # dark edges at top, bottom, left and right, as shares of the side


def draw_exposure(rng: np.random.Generator, marker: str) -> Exposure:
    """Draw how a film is taken; the marker is near the upper left corner."""
    return Exposure(
        gain=float(rng.normal(0, 0.035)),
        contrast=float(rng.normal(1.0, 0.05)),
        scatter=float(rng.uniform(0.03, 0.07)),
        noise=float(rng.uniform(0.010, 0.022)),
        marker=marker,
        marker_at=(0.5 - float(rng.uniform(0.40, 0.44)), float(rng.uniform(0.05, 0.10))),
        collimation=tuple(float(v) for v in np.maximum(rng.normal(-0.01, 0.015, 4), 0)),  # type: ignore[arg-type]
    )


def expose(path: np.ndarray, exposure: Exposure, rng: np.random.Generator) -> np.ndarray:
    """Line integrals ``[S, S]``, in units of tissue half-films -> film, float32 ``[S, S]`` in [0, 1], bone bright."""
    size = path.shape[0]
    primary = transmitted(path, path[path > 0.2])
    scatter = ndimage.gaussian_filter(primary, 0.06 * size, mode="nearest", truncate=2.5)
    grain = rng.standard_normal((size, size)).astype(np.float32)
    return develop(primary, scatter, grain, exposure, exposure.noise * np.sqrt(size / 128))


def transmitted(path: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Share of the light that is transmitted along each path, at the exposure that the body's paths ask for."""
    reference = float(np.percentile(body, REFERENCE_PERCENTILE)) if body.size else 1.0
    return np.exp(-OPTICAL_THICKNESS * path / max(reference, 0.3))


def develop(
    primary: np.ndarray, scatter: np.ndarray, grain: np.ndarray, exposure: Exposure, noise: float
) -> np.ndarray:
    """The film of transmitted and scattered light with its grain, all ``[S, S]``; ``noise`` as float is single precision."""
    # Light with its quantum noise, which is stronger where there is less of it.
    light = primary + exposure.scatter * scatter + 0.004
    mottle = (0.35 / np.sqrt(light + 0.02)).clip(0.3, 1.6)
    light = light * (1 + noise * mottle * grain)
    # Optical density, onto grey levels, with a gentle shoulder and toe.
    density = -np.log(np.clip(light, 1e-4, None))
    grey = (density - 0.25) / 3.9 + exposure.gain
    grey = 0.5 + (grey - 0.5) * exposure.contrast
    film = np.clip(grey, 0, 1)
    film = film * film * (3 - 2 * film) * 0.55 + film * 0.45
    return _collimate(_mark(film.astype(np.float32), exposure), exposure)


@lru_cache(maxsize=8)
def _letter(marker: str, size: int) -> np.ndarray:
    """The marker letter for films of a size, drawn at four times its own: float32 ``[size / 8, size / 8]`` in [0, 1]."""
    scale = 4
    font = ImageFont.load_default(size=max(6.0, 0.055 * size * scale))
    picture = Image.new("L", (size * scale // 8, size * scale // 8))
    middle = (picture.width // 2, picture.height // 2)
    ImageDraw.Draw(picture).text(middle, marker, fill=255, font=font, anchor="mm")
    return np.asarray(picture.resize((size // 8, size // 8), Image.Resampling.BOX), np.float32) / 255


def _mark(film: np.ndarray, exposure: Exposure) -> np.ndarray:
    size = film.shape[0]
    small = _letter(exposure.marker, size)
    y = int(np.clip(exposure.marker_at[1] * size - small.shape[0] / 2, 0, size - small.shape[0]))
    x = int(np.clip(exposure.marker_at[0] * size - small.shape[1] / 2, 0, size - small.shape[1]))
    corner = film[y : y + small.shape[0], x : x + small.shape[1]]
    corner += small * (0.92 - corner)
    return film


def _collimate(film: np.ndarray, exposure: Exposure) -> np.ndarray:
    size = film.shape[0]
    top, bottom, left, right = (round(v * size) for v in exposure.collimation)
    if top:
        film[:top] = 0.02
    if bottom:
        film[-bottom:] = 0.02
    if left:
        film[:, :left] = 0.02
    if right:
        film[:, -right:] = 0.02
    return film
