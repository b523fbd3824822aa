"""Features of payloads and their files. *Encoding*: what the exporter makes equal, so that a difference between the arms is a leak.

*Appearance*: what cannot be made equal without touching the anatomy; its separation of the arms is reported only.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Any

import numpy as np
from einops import rearrange, reduce
from scipy import ndimage

from medcodi.turing.bundle.payloads import Payload
from medcodi.turing.design.blinding import DITHER, WHITE, BlindingConfig, corner_mask, with_filled_corners

# Burnt-in marks: letters and arrows, not ribs or wires.
_MARK_SIDE = 128  # pixels a side of the image that is searched
_MARK_CONTRAST = 0.40  # above or below the surroundings, in the grey range; ribs reach 0.1 to 0.2
_MARK_EXTENT = 18  # largest extent in pixels
_MARK_GROUND = 4.0  # smallest ratio of the contrast to the roughness around it
_MARK_ZONE = 0.22  # share of a side at each edge that is searched
_CORNER_STEPS = 5  # grey steps by which dithered pixels of a filled corner may differ from the fill
# Share of the dither's noise above which more noise is not counted, because it belongs to the picture. The flattest blocks of a
# dithered image have 0.72 or more; of one that was smoothed and rounded again, less than 0.6.
_BAND_LIMIT = 0.7


class PayloadFeatures:
    """Features of every payload, by (reader, id)."""

    def __init__(self, blinding: BlindingConfig) -> None:
        self.blinding = blinding
        self.kinds: dict[tuple[str, str], str] = {}
        self.digests: dict[tuple[str, str], str] = {}  # SHA-256 of the data
        self.encoding: dict[tuple[str, str], dict[Any, float]] = {}  # (probe, feature) -> value
        self.appearance: dict[tuple[str, str], dict[str, float]] = {}  # feature -> value

    def add(self, reader: str, payload: Payload) -> None:
        """Measure one payload."""
        place = reader, payload.pid
        self.digests[place] = hashlib.sha256(payload.data).hexdigest()
        self.kinds[place] = str(payload.fields.get("kind"))
        if self.kinds[place] == "image":
            image = payload.image
            old = payload.fields.get("bits") == 16
            encoding = image_encoding(image, self.blinding.corner_mask, self.blinding.depth, old=old)
            self.appearance[place] = image_appearance(image)
        else:
            encoding = text_encoding(payload.text)
            self.appearance[place] = text_appearance(payload.text)
        self.encoding[place] = {(probe, name): value for probe, row in encoding.items() for name, value in row.items()}


# ---- files -----------------------------------------------------------------------------------------------------------
def name_features(name: str, what: str) -> dict[tuple[str, str], float]:
    """Features of a random name: its order, its last letter, its digits."""
    digits = [int(letter, 36) if letter.isalnum() and letter.isascii() else 36 for letter in name]
    return {
        ("name", f"{what} as a number"): float(sum(digit * 36.0**-place for place, digit in enumerate(digits[:8]))),
        ("name", f"last letter of {what}"): float(digits[-1]) if digits else 0.0,
        ("name", f"odd or even {what}"): float(digits[-1] % 2) if digits else 0.0,
        ("name", f"digits in {what}"): float(sum(letter.isdigit() for letter in name)),
    }


def file_features(size: int, time: float) -> dict[tuple[str, str], float]:
    """Size and time of a payload file."""
    return {("payload size", "bytes"): float(size), ("mtime", "file time"): float(time)}


# ---- images and texts ------------------------------------------------------------------------------------------------
def image_encoding(image: np.ndarray, corner: float, depth: int, *, old: bool = False) -> dict[str, dict[str, float]]:
    """Features of an image's encoding, by the probe that they belong to.

    Args:
        image: uint16 ``[S, S]``.
        corner: Share of a side that is masked in the corners.
        depth: Bits of grey that both arms keep.
        old: As version 0.1 wrote it: corners black, dithered to 16 bits.
    """
    grey = image.astype(np.float32) / WHITE
    step = 1 / (2**depth - 1)
    # Spread of the dither's error; in version 0.1, that of one uniform draw.
    dither = step * (12**-0.5 if old else DITHER)
    # Corners that hold more than what is beside them, beyond the dither's error.
    own = np.abs(grey - (0 if old else with_filled_corners(grey, corner))) > (0 if old else _CORNER_STEPS * step)
    hidden = corner_mask(len(grey), corner)
    return {
        "grey offset": {"darkest": float(image.min()), "brightest": float(image.max()), "grey step": _grey_step(image)},
        "border": _border(grey, corner, step),
        "resolution": {"side": float(len(grey)), "finest band": _finest_band(grey, step, dither)},
        "burnt-in mark": {"marks": _marks(grey, corner), "in the corners": float(own[hidden].sum())},
    }


def image_appearance(image: np.ndarray) -> dict[str, float]:
    """Features of an image's appearance: histogram, spectrum, thumbnail."""
    grey = image.astype(np.float32) / WHITE
    inner = _middle(grey)
    power = _radial_power(inner)
    small = _reduced(grey, 16)
    features = {f"percentile {p}": float(np.percentile(inner, p)) for p in (5, 25, 50, 75, 95)}
    features |= {"black share": float((grey < 0.01).mean()), "spread": float(inner.std())}
    features |= {f"band {row:02d}": float(value) for row, value in enumerate(np.log10(power + 1e-12))}
    return features | {f"thumbnail {row:03d}": float(value) for row, value in enumerate(small.ravel())}


def text_encoding(text: str) -> dict[str, dict[str, float]]:
    """Features of a text's format."""
    letters = [letter for letter in text if letter.isalpha()]
    upper = sum(letter.isupper() for letter in letters) / max(1, len(letters))
    return {
        "text format": {
            "not ASCII": float(sum(ord(letter) > 126 for letter in text)),
            "control characters": float(sum(ord(letter) < 32 and letter != "\n" for letter in text)),
            "doubled or stray spaces": float(len(re.findall(r"  |\s[.,;:]|^ | $", text, flags=re.MULTILINE))),
            "all upper or lower": float(upper > 0.95) - float(upper < 0.005),
            "cut short": float(text.rstrip()[-1:] not in ".!?"),
        }
    }


def text_appearance(text: str) -> dict[str, float]:
    """Features of a text's content: length, lines, letter trigrams (hashed)."""
    words = text.split()
    features = {
        "words": float(len(words)),
        "lines": float(text.count("\n")),
        "words a sentence": len(words) / max(1, len(re.findall(r"[.!?]", text))),
        "different words": len({word.lower() for word in words}) / max(1, len(words)),
    }
    # Trigrams, hashed to 256 bins.
    counts = np.zeros(256)
    lower = text.lower()
    for start in range(len(lower) - 2):
        a, b, c = (ord(letter) for letter in lower[start : start + 3])
        counts[(a * 31 * 31 + b * 31 + c) % 256] += 1
    return features | {f"threes {row:03d}": float(value) for row, value in enumerate(counts / max(1, counts.sum()))}


def _grey_step(image: np.ndarray) -> float:
    """Median distance of neighbouring grey values, in 16-bit steps; at least 16, below which there is no comb."""
    values = np.flatnonzero(np.bincount(image.ravel(), minlength=WHITE + 1))
    return max(16.0, float(np.median(np.diff(values)))) if len(values) > 1 else float(WHITE)


def _border(grey: np.ndarray, corner: float, step: float) -> dict[str, float]:
    """Constant lines at each edge, and the largest step from the outermost lines to the next ones."""
    size = len(grey)
    side = round(corner * size)
    features, steps = {}, [0.0]
    for name, turned in {"top": grey, "bottom": grey[::-1], "left": grey.T, "right": grey.T[::-1]}.items():
        inner = turned[:, side : size - side]
        # Lines from the edge inwards whose grey values barely vary.
        flat = np.ptp(inner[: size // 4], axis=1) < 2.5 * step
        features[f"flat lines, {name}"] = float(len(flat) if flat.all() else np.argmin(flat))
        # Step between the outermost bands, beyond that between the next ones.
        for width in (1, 2, 4, 8):
            if 3 * width < size // 4:
                bands = [inner[width * row : width * (row + 1)].mean(axis=0) for row in range(3)]
                first, second = np.median(bands[1] - bands[0]), np.median(bands[2] - bands[1])
                steps.append(float(abs(first) - abs(second)))
    return features | {"edge step": max(0.04, *steps)}


def _finest_band(grey: np.ndarray, step: float, dither: float) -> float:
    """Noise of the finest frequency band where the image is flattest, relative to the dither's, at most 0.7.

    In every block of 8 x 8 pixels that touches neither black nor white, the dither alone leaves its noise in the diagonal second
    difference, whatever the picture; only resampling or smoothing removes it.
    """
    side = len(grey) // 8 * 8
    tiles = rearrange(grey[:side, :side], "(down h) (across w) -> (down across) h w", h=8, w=8)
    inside = (tiles.min(axis=(1, 2)) > 2 * step) & (tiles.max(axis=(1, 2)) < 1 - 2 * step)
    if inside.sum() < 8:
        return _BAND_LIMIT
    tiles = tiles[inside]
    # Half the second difference: of white noise, its own spread.
    second = (tiles[:, :-1, :-1] - tiles[:, 1:, :-1] - tiles[:, :-1, 1:] + tiles[:, 1:, 1:]) / 2
    spread = np.sqrt((second**2).mean(axis=(1, 2)))
    return float(min(np.percentile(spread, 5) / dither, _BAND_LIMIT))


def _marks(grey: np.ndarray, corner: float) -> float:
    """Number of pixels (of 128 x 128) in small, compact spots near the edges on even ground: letters, arrows, electrodes."""
    small = _reduced(grey, _MARK_SIDE)
    # Contrast above and below the surroundings.
    bright, dark = small - ndimage.grey_opening(small, size=9), ndimage.grey_closing(small, size=9) - small
    edge = round(_MARK_ZONE * len(small))
    # The edge of the corner mask itself is not counted.
    free = np.logical_not(ndimage.binary_dilation(corner_mask(len(small), corner), iterations=2))
    num_pixels = 0
    for contrast in (bright, dark):
        labels = _components(contrast > _MARK_CONTRAST)
        for number, (down, across) in enumerate(ndimage.find_objects(labels), start=1):
            middle = (down.start + down.stop) / 2, (across.start + across.stop) / 2
            # Near an edge, and small.
            if all(edge <= place <= len(small) - edge for place in middle):
                continue
            if max(down.stop - down.start, across.stop - across.start) > _MARK_EXTENT:
                continue
            # Its contrast must exceed the roughness of the ground around it.
            around = slice(max(0, down.start - 3), down.stop + 3), slice(max(0, across.start - 3), across.stop + 3)
            own = (labels[around] == number) & free[around]
            ground = contrast[around][np.logical_not(ndimage.binary_dilation(own))]
            area = int(own.sum())
            if area >= 3 and ground.size and contrast[around][own].mean() > _MARK_GROUND * np.sqrt((ground**2).mean()):
                num_pixels += area
    return float(num_pixels)


def _components(mask: np.ndarray) -> np.ndarray:
    """Numbered components of a mask, connected at edges and corners: int ``[H, W]``, 0 outside."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask, np.ones((3, 3)), output=labels)
    return labels


def _middle(grey: np.ndarray) -> np.ndarray:
    """The middle of an image, a power of two a side, for the spectrum."""
    side = 1 << (int(len(grey) * 0.66).bit_length() - 1)
    start = (len(grey) - side) // 2
    return grey[start : start + side, start : start + side]


@lru_cache(maxsize=4)
def _spectrum_parts(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A Hann window ``[S, S]`` of unit power, and the ring of each frequency: 0 to 31, 32 beyond."""
    window = np.outer(np.hanning(side), np.hanning(side))
    across, down = np.fft.rfftfreq(side), np.fft.fftfreq(side)
    radius = np.hypot(down[:, None], across[None, :]) / 0.5
    return window / np.sqrt((window**2).mean()), np.minimum((radius * 32).astype(int), 32)


def _radial_power(inner: np.ndarray) -> np.ndarray:
    """Power in 32 rings of frequency: float ``[32]``; for white noise, its variance."""
    window, ring = _spectrum_parts(len(inner))
    power = np.abs(np.fft.rfft2((inner - inner.mean()) * window)) ** 2 / inner.size
    sums = np.bincount(ring.ravel(), power.ravel(), 33)
    return (sums / np.maximum(1, np.bincount(ring.ravel(), minlength=33)))[:32]


def _reduced(grey: np.ndarray, side: int) -> np.ndarray:
    """Means of blocks: ``[side, side]``; smaller images are unchanged."""
    factor = len(grey) // side
    if factor <= 1:
        return grey
    cut = grey[: side * factor, : side * factor]
    return reduce(cut, "(down h) (across w) -> down across", "mean", h=factor, w=factor)
