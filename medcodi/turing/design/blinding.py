"""Blinding: one pipeline for both arms (crop, size, depth, grey range, corners, dither) and one form of text.

Afterwards every image has the same size and frequency band, reaches from 0 to 65535, and has no frame, no marks in its corners, and the
same grey steps. ``medcodi turing lint`` checks it.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from medcodi.config import config
from medcodi.data.refusals import Refused
from medcodi.data.reports import normalise_report
from medcodi.errors import ConfigError

WHITE = 65535  # the brightest grey value, whatever the depth
DITHER = (5 / 12) ** 0.5  # spread of the error of dither and rounding, in steps: four uniform draws and the rounding
MIN_SIDE = 16  # pixels a side that must remain after the crop
_BAND = 3  # pixels beside a corner that it is filled from
_ASCII = {
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "×": "x",
    "µ": "u",
    "°": " deg",
}


@config
class BlindingConfig:
    """How the images and texts of both arms are made alike."""

    # `square` cuts black or white frames off, then to a central square: no image keeps a border. `frame` cuts frames off
    # and pads to a square with black. `none` keeps frames: for arms whose frames are alike, such as a model's and those
    # of its training data.
    crop: Literal["square", "frame", "none"] = "square"
    # Rows and columns at an edge that are this dark (or this close to white) are a frame; share of the grey range.
    frame_level: float = 0.03
    margin: float = 0.02  # share of a side cut off at each edge, because generators fail at edges
    native_size: int | None = None  # pixels a side that both arms are reduced to first; None: the coarsest image
    percentiles: tuple[float, float] = (0.5, 99.5)  # grey values stretched to black and white
    black_level: float = 0.02  # share of the range that becomes black, because sensors differ in near black
    corner_mask: float = 0.16  # side of the square in each corner that is filled from around it; share of a side
    depth: int = 8  # bits of grey of both arms, dithered
    text_case: Literal["keep", "upper", "lower"] = "keep"  # of all reports
    max_words: int | None = None  # reports are cut to whole sentences of at most this many words; None: not cut

    def __post_init__(self) -> None:
        low, high = self.percentiles
        shares = {"frame_level": self.frame_level, "margin": self.margin, "black_level": self.black_level}
        for name, share in shares.items():
            if not 0 <= share <= 0.2:
                raise ConfigError(f"blinding: {name} is {share}", expected="a share from 0 to 0.2")
        if not 0 <= low < 25 or not 75 < high <= 100:
            raise ConfigError(f"blinding: percentiles are {low} and {high}", expected="such as [0.5, 99.5]")
        if not 0 <= self.corner_mask <= 0.3:
            raise ConfigError(f"blinding: corner_mask is {self.corner_mask}", expected="a share from 0 to 0.3")
        if not 6 <= self.depth <= 14:
            raise ConfigError(f"blinding: depth is {self.depth}", expected="6 to 14 bits", fix="8 serves 8-bit files")
        if self.native_size is not None and self.native_size < MIN_SIDE:
            raise ConfigError(f"blinding: native_size is {self.native_size}", expected=f"{MIN_SIDE} pixels or more")
        if self.max_words is not None and self.max_words < 10:
            raise ConfigError(f"blinding: max_words is {self.max_words}", expected="10 or more")


def cut_image(image: np.ndarray, blinding: BlindingConfig, largest: int) -> np.ndarray:
    """First half of the pipeline: common depth, frames removed, a square of at most ``largest`` pixels a side.

    Args:
        image: float ``[H, W]`` in [0, 1].
        blinding: Config of the pipeline.
        largest: Larger squares are reduced to this side, antialiased.

    Returns:
        float32 ``[S, S]`` in [0, 1].

    Raises:
        Refused: If fewer than 16 pixels a side remain.
    """
    # Common depth: both arms have the same grey levels.
    levels = 2**blinding.depth - 1
    image = np.rint(np.clip(image, 0.0, 1.0) * levels).astype(np.float32) / np.float32(levels)
    # Remove the frame, then crop or pad to a square.
    if blinding.crop != "none":
        image = _without_frame(image, blinding.frame_level)
    square = (
        _middle_square(image, blinding.margin) if blinding.crop == "square" else _filled_square(image, blinding.margin)
    )
    side = len(square)
    if side < MIN_SIDE:
        raise Refused(
            f"{side} pixels of an image remain once its frame is cut off",
            reason="too small",
            expected=f"at least {MIN_SIDE}",
            fix="leave this image out, or blinding.crop: none",
        )
    return resized(square, largest) if side > largest else square


def finish_image(square: np.ndarray, blinding: BlindingConfig, native: int, noise: np.random.Generator) -> np.ndarray:
    """Second half: the common band, the common grey range, the corners, the common depth.

    Args:
        square: From :func:`cut_image`, at least ``native`` pixels a side.
        blinding: Config of the pipeline.
        native: Pixels a side that both arms are reduced to, and that the viewer enlarges.
        noise: For the dither: four uniform draws of one step of ``blinding.depth``, added before rounding. The error then has one
            spread (:data:`DITHER`) whatever the picture, so that both arms fill the same frequency band to the same level.

    Returns:
        uint16 ``[native, native]``, from 0 to 65535, in 2^depth levels.
    """
    # Common band. Half a pixel is cut off at each edge, so that an image of the native size is resampled like all others, and
    # does not keep the comb of its file's grey values.
    image = resized(square, native, inset=0.5)
    # Common grey range: percentiles of all but the corners to black and white.
    shown = image[~corner_mask(native, blinding.corner_mask)]
    low, high = np.percentile(shown, blinding.percentiles)
    if high - low < 1e-3:
        low, high = float(shown.min()), float(shown.max())
    floor = low + blinding.black_level * (high - low)
    image = np.clip((image - floor) / max(high - floor, 1e-6), 0.0, 1.0)
    # Common corners, of which nothing remains.
    image = with_filled_corners(image, blinding.corner_mask)
    # Common depth, dithered.
    levels = 2**blinding.depth - 1
    first, second, third, fourth = noise.random((4, *image.shape), dtype=np.float32)
    dither = first + second - third - fourth
    image = np.clip(np.rint(image * levels + dither), 0, levels)
    grey = np.rint(image * (WHITE / levels)).astype(np.uint16)
    # Black and white are always reached.
    grey.flat[np.argmin(grey)], grey.flat[np.argmax(grey)] = 0, WHITE
    return grey


def resized(square: np.ndarray, size: int, *, inset: float = 0.0) -> np.ndarray:
    """float32 ``[S, S]`` without ``inset`` pixels at each edge to ``[size, size]``, bicubic, antialiased, within [0, 1]."""
    picture = Image.fromarray(np.ascontiguousarray(square, dtype=np.float32))
    box = (inset, inset, len(square) - inset, len(square) - inset)
    return np.clip(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box)), 0.0, 1.0)


def blind_text(text: str, blinding: BlindingConfig) -> str:
    """A report in the form of both arms: one line per section, ASCII, single spaces, one case, whole sentences.

    Raises:
        Refused: If the text is empty afterwards.
    """
    # Letters to ASCII.
    text = "".join(_ASCII.get(letter, letter) for letter in normalise_report(text))
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    # Spaces and punctuation, line by line.
    lines = [_tidy_line(line) for line in text.splitlines()]
    text = "\n".join(line for line in lines if line)
    if blinding.max_words is not None:
        text = _first_sentences(text, blinding.max_words)
    if blinding.text_case != "keep":
        text = text.upper() if blinding.text_case == "upper" else text.lower()
    if not text:
        raise Refused("a report is empty once it is cleaned", reason="report: empty", expected="at least one word")
    return text


def _without_frame(image: np.ndarray, level: float) -> np.ndarray:
    """Cut off rows and columns at the edges that are nearly black or nearly white, until none is left."""
    while min(image.shape) >= MIN_SIDE:
        box = []
        for axis in (1, 0):
            low, high = np.percentile(image, (2, 98), axis=axis)
            inside = np.flatnonzero((high > level) & (low < 1 - level))
            box.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(0, 0))
        inner = image[box[0], box[1]]
        if inner.shape == image.shape:
            return image
        image = inner
    return image


def _middle_square(image: np.ndarray, margin: float) -> np.ndarray:
    height, width = image.shape
    side = round(min(height, width) * (1 - 2 * margin))
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _filled_square(image: np.ndarray, margin: float) -> np.ndarray:
    height, width = image.shape
    down, across = round(height * margin), round(width * margin)
    inner = image[down : height - down, across : width - across]
    square = np.zeros((max(inner.shape),) * 2, np.float32)
    top, left = ((len(square) - extent) // 2 for extent in inner.shape)
    square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return square


def _tidy_line(line: str) -> str:
    line = re.sub(r"\s+([.,;:!?)])", r"\1", " ".join(line.split()))
    line = re.sub(r"([.,;:!?])(?=[A-Za-z(])", r"\1 ", line)
    return line if not line or line[-1] in ".!?" else line.rstrip(",;: ") + "."


def _first_sentences(text: str, num_words: int) -> str:
    text_so_far, words = "", 0
    for piece in re.findall(r".+?(?:[.!?](?=\s|$)\s*|$)", text, flags=re.DOTALL):
        words += len(piece.split())
        if words > num_words and text_so_far:
            break
        text_so_far += piece
    return "\n".join(line.strip() for line in text_so_far.splitlines()).strip()


# ---- corners: where markers are, filled from around them, so that nothing of what they held remains and nothing is cut ----
def corner_mask(size: int, share: float) -> np.ndarray:
    """True in the four corner squares: bool ``[size, size]``."""
    side = round(share * size)
    edge = np.zeros(size, dtype=bool)
    edge[:side] = edge[size - side :] = side > 0
    return edge[:, None] & edge[None, :]


def with_filled_corners(image: np.ndarray, share: float) -> np.ndarray:
    """The image with each corner square replaced by the smoothest continuation of the pixels beside it.

    It solves Laplace's equation with the means of the three nearest pixels on the two inner sides, and no slope at the image's edges. No
    pixel of the corner itself is used; no value exceeds those beside it, and there is no step at the inner sides.

    Args:
        image: float ``[S, S]``.
        share: Side of the squares, as a share of S; at most 0.3.
    """
    image = image.copy()
    side = round(share * len(image))
    if not side:
        return image
    values, vectors = _laplacian(side)
    # Views: each has another corner at its upper left.
    for turned in (image, image[::-1], image[:, ::-1], image[::-1, ::-1]):
        beside = np.zeros((side, side))
        beside[:, -1] += turned[:side, side : side + _BAND].mean(axis=1)
        beside[-1] += turned[side : side + _BAND, :side].mean(axis=0)
        # In the eigenvectors of both directions the equation is a division.
        turned[:side, :side] = vectors @ ((vectors.T @ beside @ vectors) / (values[:, None] + values)) @ vectors.T
    return image


@lru_cache(maxsize=4)
def _laplacian(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the second difference: no slope at the first pixel, a known value after the last."""
    matrix = 2 * np.eye(side) - np.eye(side, k=1) - np.eye(side, k=-1)
    matrix[0, 0] = 1
    return np.linalg.eigh(matrix)
