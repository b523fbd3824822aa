"""What the lint measures in an image or a text. ``ENCODING`` is what the pipeline makes equal: a difference there is a leak.

``APPEARANCE`` is what it cannot make equal without touching the anatomy; its areas under the curve are reported.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from scipy import ndimage

from medcodi.turing.design.blinding import WHITE, corner_mask

Features = dict[str, float]
_MARK_SIDE = 128  # pixels a side at which marks are sought
_MARK_CONTRAST = 0.40  # above (or below) the surroundings, of the grey range; ribs stand at 0.1 to 0.2
_MARK_EXTENT = 18  # pixels of those: a letter, an arrow
_MARK_GROUND = 4.0  # times the roughness around it, at least, is the contrast of a mark
_MARK_ZONE = 0.22  # share of a side at each edge where burnt-in marks stand
_BAND_FLOOR = 0.7  # of the dither's noise: more is not counted, for it is the picture's own


def image_encoding(image: np.ndarray, corner: float, depth: int) -> dict[str, Features]:
    """Features of the encoding, by the name of the leak that they show.

    Args:
        image: uint16 ``[S, S]``.
        corner: Share of a side that is masked in the corners.
        depth: Bits that both arms keep.
    """
    grey = image.astype(np.float32) / WHITE
    step = 1 / (2**depth - 1)
    hidden = corner_mask(len(grey), corner)
    return {
        "grey offset": {
            "darkest": float(image.min()),
            "brightest": float(image.max()),
            "grey step": _grey_step(image),
        },
        "border": _border(grey, corner, step),
        "resolution": {"side": float(len(grey)), "finest band": _finest_band(grey, step)},
        "burnt-in mark": {"marks": _marks(grey, corner), "in the corners": float((image[hidden] > 0).sum())},
    }


def image_appearance(image: np.ndarray) -> Features:
    """Features of what is seen: histogram, spectrum, a thumbnail."""
    grey = image.astype(np.float32) / WHITE
    inner = _middle(grey)
    power = _radial_power(inner)
    small = _reduced(grey, 16)
    found = {f"percentile {p}": float(np.percentile(inner, p)) for p in (5, 25, 50, 75, 95)}
    found |= {"black share": float((grey < 0.01).mean()), "spread": float(inner.std())}
    found |= {f"band {row:02d}": float(value) for row, value in enumerate(np.log10(power + 1e-12))}
    found |= {f"thumbnail {row:03d}": float(value) for row, value in enumerate(small.ravel())}
    return found


def text_encoding(text: str) -> dict[str, Features]:
    """Features of how a text is written, not of what it says."""
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


def text_appearance(text: str) -> Features:
    """Features of what a text says: its length, its lines, its letters in threes (hashed)."""
    words = text.split()
    found = {
        "words": float(len(words)),
        "lines": float(text.count("\n")),
        "words a sentence": len(words) / max(1, len(re.findall(r"[.!?]", text))),
        "different words": len({word.lower() for word in words}) / max(1, len(words)),
    }
    counts = np.zeros(256)
    lower = text.lower()
    for start in range(len(lower) - 2):
        a, b, c = (ord(letter) for letter in lower[start : start + 3])
        counts[(a * 31 * 31 + b * 31 + c) % 256] += 1
    return found | {f"threes {row:03d}": float(value) for row, value in enumerate(counts / max(1, counts.sum()))}


def _grey_step(image: np.ndarray) -> float:
    """Typical distance of neighbouring grey values, in 16-bit steps; below 16 it is no comb, and counted as 16."""
    values = np.flatnonzero(np.bincount(image.ravel(), minlength=WHITE + 1))
    return max(16.0, float(np.median(np.diff(values)))) if len(values) > 1 else float(WHITE)


def _border(grey: np.ndarray, corner: float, step: float) -> Features:
    """Lines of one value at each edge, and the largest step from the outermost lines to the next ones."""
    size = len(grey)
    side = round(corner * size)
    found, steps = {}, [0.0]
    for name, turned in {"top": grey, "bottom": grey[::-1], "left": grey.T, "right": grey.T[::-1]}.items():
        inner = turned[:, side : size - side]
        flat = np.ptp(inner[: size // 4], axis=1) < 2.5 * step
        found[f"flat lines, {name}"] = float(len(flat) if flat.all() else np.argmin(flat))
        for width in (1, 2, 4, 8):
            if 3 * width < size // 4:
                bands = [inner[width * row : width * (row + 1)].mean(axis=0) for row in range(3)]
                first, second = np.median(bands[1] - bands[0]), np.median(bands[2] - bands[1])
                steps.append(float(abs(first) - abs(second)))
    return found | {"edge step": max(0.04, *steps)}


def _finest_band(grey: np.ndarray, step: float) -> float:
    """Noise of the finest band in the flattest parts, in the dither's, where it is less than the dither's own; else that.

    In every block of 8 x 8 that touches neither black nor white, the dither alone leaves its noise in the diagonal second difference,
    whatever the picture; only resampling or smoothing takes it away.
    """
    blocks = len(grey) // 8
    tiles = grey[: blocks * 8, : blocks * 8].reshape(blocks, 8, blocks, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    inside = (tiles.min(axis=(1, 2)) > 2 * step) & (tiles.max(axis=(1, 2)) < 1 - 2 * step)
    if inside.sum() < 8:
        return _BAND_FLOOR
    tiles = tiles[inside]
    second = (
        tiles[:, :-1, :-1] - tiles[:, 1:, :-1] - tiles[:, :-1, 1:] + tiles[:, 1:, 1:]
    ) / 2  # of white noise: its own spread
    spread = np.sqrt((second**2).mean(axis=(1, 2)))
    return float(min(np.percentile(spread, 10) / (step / np.sqrt(12)), _BAND_FLOOR))


def _marks(grey: np.ndarray, corner: float) -> float:
    """Pixels (of 128 x 128) in small, compact spots near the edges, on even ground: letters, arrows, electrodes; not ribs or wires."""
    small = _reduced(grey, _MARK_SIDE)
    bright, dark = small - ndimage.grey_opening(small, size=9), ndimage.grey_closing(small, size=9) - small
    edge = round(_MARK_ZONE * len(small))
    # The corner mask's own edge is no mark.
    free = np.logical_not(ndimage.binary_dilation(corner_mask(len(small), corner), iterations=2))
    found = 0
    for contrast in (bright, dark):
        labels = _components(contrast > _MARK_CONTRAST)
        for number, (down, across) in enumerate(ndimage.find_objects(labels), start=1):
            middle = (down.start + down.stop) / 2, (across.start + across.stop) / 2
            if all(edge <= place <= len(small) - edge for place in middle):
                continue
            if max(down.stop - down.start, across.stop - across.start) > _MARK_EXTENT:
                continue
            around = slice(max(0, down.start - 3), down.stop + 3), slice(max(0, across.start - 3), across.stop + 3)
            own = (labels[around] == number) & free[around]
            ground = contrast[around][np.logical_not(ndimage.binary_dilation(own))]
            area = int(own.sum())
            if area >= 3 and ground.size and contrast[around][own].mean() > _MARK_GROUND * np.sqrt((ground**2).mean()):
                found += area
    return float(found)


def _components(mask: np.ndarray) -> np.ndarray:
    """Numbers of the connected parts of a mask, corners connect: int ``[H, W]``, 0 outside."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask, np.ones((3, 3)), output=labels)
    return labels


def _middle(grey: np.ndarray) -> np.ndarray:
    """The middle of an image, a power of two a side: what the spectrum is taken of."""
    side = 1 << (int(len(grey) * 0.66).bit_length() - 1)
    start = (len(grey) - side) // 2
    return grey[start : start + side, start : start + side]


@lru_cache(maxsize=4)
def _spectrum_parts(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A Hann window ``[S, S]`` of unit power, and for each frequency its ring, 0 to 31; 32 beyond."""
    window = np.outer(np.hanning(side), np.hanning(side))
    across, down = np.fft.rfftfreq(side), np.fft.fftfreq(side)
    radius = np.hypot(down[:, None], across[None, :]) / 0.5
    return window / np.sqrt((window**2).mean()), np.minimum((radius * 32).astype(int), 32)


def _radial_power(inner: np.ndarray) -> np.ndarray:
    """Power in 32 rings of frequency up to the finest; of white noise it is its variance: ``[32]``."""
    window, ring = _spectrum_parts(len(inner))
    power = np.abs(np.fft.rfft2((inner - inner.mean()) * window)) ** 2 / inner.size
    sums = np.bincount(ring.ravel(), power.ravel(), 33)
    return (sums / np.maximum(1, np.bincount(ring.ravel(), minlength=33)))[:32]


def _reduced(grey: np.ndarray, side: int) -> np.ndarray:
    """Mean of blocks: ``[side, side]`` (smaller images as they are)."""
    factor = len(grey) // side
    if factor <= 1:
        return grey
    cut = grey[: side * factor, : side * factor]
    return cut.reshape(side, factor, side, factor).mean(axis=(1, 3))
