"""Images as arrays: checked, float32 [H, W] in [0, 1], with square pixels, fitted to the square that a model sees."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medcodi.data.refusals import Refused
from medcodi.xmp import GENERATED, MEDCODI, PNG_KEYWORD, Mark

MIN_SIDE = 32  # pixels: below that nothing of a chest is left
MAX_PIXELS = 10_000 * 10_000  # of one image: more than any detector has
_MAX_16 = 65535
_MAX_ASPECT = 5.0  # height over width of a pixel, or its inverse: beyond it the tag is wrong, not the pixel
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
SYNTHETIC = "synthetic"
ORIGIN = "Origin"  # text chunk of PNGs that no patient was examined for: phantom or synthetic
BITS_USED = "Bits used"  # text chunk of our own 16-bit PNGs, which may be dark and use all bits


def check_image(image: np.ndarray, where: str, *, allow_constant: bool = False) -> np.ndarray:
    """Return ``image`` if it can be used; float32 ``[H, W]`` in [0, 1].

    Raises:
        Refused: If it is too small, holds NaN, or is all of one value.
    """
    height, width = image.shape
    if min(height, width) < MIN_SIDE:
        raise Refused(
            f"{where} is {width}×{height} pixels",
            reason="too small",
            expected=f"at least {MIN_SIDE} on each side",
            fix="give the original image",
        )
    low, high = float(image.min()), float(image.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Refused(f"{where} holds NaN or infinity", reason="not finite", expected="finite numbers in [0, 1]")
    if low == high and not allow_constant:
        raise Refused(
            f"{where} is all of one value ({low:.3g})",
            reason="constant",
            expected="a picture (all black is the null prompt)",
            fix="leave this image out: an absent modality needs no stand-in",
        )
    return image


def too_large(where: str, detail: str) -> Refused:
    """The refusal of an image of more pixels than are held in memory."""
    return Refused(
        f"{where} is too large: {detail}",
        reason="too large",
        expected=f"a radiograph of at most {MAX_PIXELS:,} pixels",
        fix="save it at a smaller size",
    )


def square_pixels(image: np.ndarray, aspect: float, where: str) -> np.ndarray:
    """Resample an image ``[H, W]`` whose pixels are ``aspect`` times as high as wide, so that a disc is a disc.

    The finer side keeps its pixels. Aspects within 1 % of 1 are left as they are.

    Raises:
        Refused: If the aspect is beyond 5 : 1, or the image becomes too large.
    """
    if abs(aspect - 1.0) <= 0.01:
        return image
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        raise Refused(
            f"{where} says that its pixels are {aspect:.4g} times as high as wide",
            reason="pixel aspect",
            expected=f"a ratio from {1 / _MAX_ASPECT:g} to {_MAX_ASPECT:g}",
            fix="correct the resolution stored in the file, or save it with square pixels",
        )
    height, width = image.shape
    new_height, new_width = (round(height * aspect), width) if aspect > 1 else (height, round(width / aspect))
    if new_height * new_width > MAX_PIXELS:
        raise too_large(where, f"{new_width}×{new_height} pixels once they are square")
    return np.clip(_resize(np.ascontiguousarray(image, dtype=np.float32), new_height, new_width), 0.0, 1.0)


def gray_from_array(pixels: np.ndarray, where: str) -> np.ndarray:
    """An array of any usual layout and type as float32 ``[H, W]`` in [0, 1]; colour becomes luminance."""
    expected = "[H, W], [1, H, W], [H, W, C] or [C, H, W] with C of 1, 3 or 4"
    # [C, H, W] -> [H, W, C].
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.size == 0 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise Refused(f"{where} has shape {list(pixels.shape)}", reason="bad shape", expected=expected)
    image = _unit_from_array(pixels, where)
    if image.ndim == 2:
        return image
    if image.shape[2] == 1:
        return np.ascontiguousarray(image[..., 0])
    return np.clip(image[..., :3] @ _LUMINANCE, 0.0, 1.0)


def _unit_from_array(pixels: np.ndarray, where: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    if pixels.dtype == np.uint16:
        return from_uint16(pixels)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise Refused(
            f"{where} is of type {pixels.dtype}",
            reason="bad values",
            expected="uint8, uint16, or float in [0, 1]",
            fix="convert it first",
        )
    # Floats must be in [0, 1]; rounding beyond the ends is clipped.
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Refused(f"{where} holds NaN or infinity", reason="not finite", expected="finite numbers in [0, 1]")
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise Refused(
            f"{where} holds values from {low:.4g} to {high:.4g}",
            reason="bad values",
            expected="float in [0, 1]",
            fix="scale it, black 0 and white 1",
        )
    return np.clip(pixels.astype(np.float32), 0.0, 1.0)


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """Scale an image into a square, aspect kept, black beside it; resizing is antialiased.

    float32 ``[H, W]`` -> ``[size, size]`` in [0, 1], centred. Resizing precedes padding, whose edge would bleed into the image.
    """
    height, width = image.shape
    # The longer side fills the square.
    scale = size / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    if (new_height, new_width) != (height, width):
        image = _resize(np.ascontiguousarray(image, dtype=np.float32), new_height, new_width)
    square = np.zeros((size, size), dtype=np.float32)
    # Centre it on black.
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square[top : top + new_height, left : left + new_width] = np.clip(image, 0.0, 1.0)
    return square


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    # A box reduction by a whole number first, leaving at least 3 pixels per pixel to the antialiased filter: three
    # times as fast at 2k, and within 0.002 of the direct way (measured on radiographs, benchmarks/prepare.py).
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(resized)


def to_uint16(image: np.ndarray) -> np.ndarray:
    """To uint16 from float ``[...]`` in [0, 1], rounded; :func:`from_uint16` reads it back within 1/131070."""
    return np.rint(np.clip(image, 0.0, 1.0) * np.float32(_MAX_16)).astype(np.uint16)


def from_uint16(pixels: np.ndarray) -> np.ndarray:
    """From uint16 ``[...]`` to float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(_MAX_16)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """To uint8 from float ``[...]`` in [0, 1], rounded."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)


def grey_levels(picture: Image.Image) -> np.ndarray:
    """The grey levels of a picture, uint16 ``[H, W]`` with 65535 as white; a coloured one ``[H, W, 3]``.

    A lossless file of other bits or channels holds the same levels.
    """
    if picture.mode.startswith("I"):  # 16 bits
        return np.asarray(picture).astype(np.uint16)
    colours = np.asarray(picture.convert("RGB")).astype(np.uint16) * 257
    return colours if (colours != colours[..., :1]).any() else colours[..., 0]


def pixels_sha256(levels: np.ndarray) -> str:
    """SHA-256 of the shape and values of grey levels, as :func:`grey_levels` gives them."""
    return hashlib.sha256(str(levels.shape).encode() + levels.astype(">u2").tobytes()).hexdigest()


def save_png16(image: np.ndarray, path: str | Path, *, origin: str | None = None, xmp: str = "") -> None:
    """Write float ``[H, W]`` in [0, 1] as a 16-bit gray PNG that says so: a dark one is not stretched when it is read.

    ``origin`` is ``phantom`` or ``synthetic``, where no patient was examined; ``xmp`` a packet of :mod:`medcodi.xmp`.
    """
    info = png_info(origin, xmp)
    info.add_text(BITS_USED, "16")
    Image.fromarray(to_uint16(image)).save(path, format="PNG", pnginfo=info)


def save_png8(image: np.ndarray, path: str | Path, *, origin: str | None = None, xmp: str = "") -> None:
    """Write float ``[H, W]`` in [0, 1] as an 8-bit gray PNG; ``origin`` and ``xmp`` as for :func:`save_png16`."""
    Image.fromarray(to_uint8(image)).save(path, format="PNG", pnginfo=png_info(origin, xmp))


def png_info(origin: str | None = None, xmp: str = "") -> PngInfo:
    """The text chunks of a PNG: its origin, and the XMP packet that marks it as generated; a synthetic one always has one."""
    info = PngInfo()
    if origin == SYNTHETIC and not xmp:
        xmp = Mark(source_type=GENERATED, system=MEDCODI).packet()
    if origin is not None:
        info.add_text(ORIGIN, origin)
    if xmp:
        info.add_itxt(PNG_KEYWORD, xmp)
    return info
