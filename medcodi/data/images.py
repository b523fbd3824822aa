"""Images in and out: any format to float32 [H, W] in [0, 1], and from there to the square a model sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from medcodi.data.refusals import Refused
from medcodi.errors import MedCoDiError, first_line

MIN_SIDE = 32  # pixels: below that nothing of a chest is left
MAX_PIXELS = 10_000 * 10_000  # of one image: more than any detector has
_MAX_16 = 65535
_MAX_ASPECT = 5.0  # height over width of a pixel, or its inverse: beyond it the tag is wrong, not the pixel
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP")  # Pillow's; others start programs, or are no radiographs
_EXPECTED = "a PNG, JPEG, JPEG 2000, TIFF, BMP, WebP or DICOM file"
_BITS_USED = "Bits used"  # text chunk of our own 16-bit PNGs, which may be dark and use all bits
_PHOTOMETRIC, _BITS_PER_SAMPLE, _ORIENTATION = 262, 258, 0x0112  # TIFF tags


def read_image(
    value: Any, *, where: str | None = None, allow_constant: bool = False, modality: str | None = None
) -> np.ndarray:
    """Read one image, whatever holds it.

    Args:
        value: A path (PNG, JPEG, JPEG 2000, TIFF, BMP, WebP, DICOM: told by content), a PIL image, an array or a
            tensor: uint8, uint16, bool, or float in [0, 1]; ``[H, W]``, ``[1, H, W]``, ``[H, W, C]`` or ``[C, H, W]``
            with C of 1, 3 or 4. Colour becomes luminance, alpha is dropped.
        where: Name for messages; the path by default.
        allow_constant: Take an image that is all of one value (a generated one, which is judged as it is).
        modality: The image modality that it is given as; a DICOM file whose view position names another is refused.

    Returns:
        float32 ``[H, W]`` in [0, 1], with square pixels; 16 bit are kept. 16-bit files that use 8, 10 or 12 bits are
        stretched to them.

    Raises:
        Refused: If there is no image there, it is smaller than 32 pixels on a side, or all of one value.
    """
    if isinstance(value, str | Path):
        where = where or str(value)
        image = _read_file(Path(value), where, modality)
    elif isinstance(value, Image.Image):
        where = where or "the PIL image"
        with _reading(where):
            image = _array_from_pil(value, where)
    elif hasattr(value, "detach"):  # a torch.Tensor, without importing torch here
        where = where or "the tensor"
        value = value.detach().cpu()
        image = _gray_from_array((value.float() if "float" in str(value.dtype) else value).numpy(), where)
    elif isinstance(value, np.ndarray):
        where = where or "the array"
        image = _gray_from_array(value, where)
    else:
        raise Refused(
            f"a {type(value).__name__} is not an image",
            reason="not an image",
            expected="a path, a PIL image, an array or a tensor",
        )
    return check_image(image, where, allow_constant=allow_constant)


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


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its magic number, or by its suffix where the preamble is missing."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_file(path: Path, where: str, modality: str | None) -> np.ndarray:
    check_file(path, where)
    if is_dicom(path):
        from medcodi.data.dicom.reading import check_view, read_dicom

        dicom = read_dicom(path)
        check_view(dicom.header, modality, where)
        return dicom.image
    with _reading(where), Image.open(path, formats=_FORMATS) as picture:
        return _array_from_pil(picture, where)


def check_image_file(path: Path, modality: str | None = None) -> None:
    """Refuse a file that is no image, by its header alone: pixels are not decoded.

    Raises:
        Refused: As :func:`read_image` refuses it, as far as a header tells.
        MissingExtraError: If it is a DICOM file and pydicom is not installed.
    """
    where = str(path)
    check_file(path, where)
    if is_dicom(path):
        from medcodi.data.dicom.reading import check_view, read_header

        check_view(read_header(path), modality, where)
        return
    with _reading(where), Image.open(path, formats=_FORMATS) as picture:
        _check_size(picture, where)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what Pillow raises, which differs by format, into refusals."""
    try:
        yield
    except MedCoDiError:
        raise
    except UnidentifiedImageError:
        raise Refused(
            f"{where} is not an image that can be read",
            reason="unreadable",
            expected=_EXPECTED,
            fix="convert it to PNG",
        ) from None
    except Image.DecompressionBombError as error:
        raise _too_large(where, first_line(error)) from None
    except Exception as error:  # decoders are foreign code on foreign bytes: any kind is possible
        raise Refused(
            f"{where} is corrupt or cut short ({type(error).__name__}: {first_line(error)[:200]})",
            reason="corrupt",
            expected="a whole image file",
            fix="copy or download it again",
        ) from None


def _too_large(where: str, detail: str) -> Refused:
    return Refused(
        f"{where} is too large: {detail}",
        reason="too large",
        expected=f"a radiograph of at most {MAX_PIXELS:,} pixels",
        fix="save it at a smaller size",
    )


def check_file(path: Path, where: str) -> None:
    """Refuse a path without a file, or with an empty one."""
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # longer than a file name may be, or with a null byte: a report given for an image
        is_file = False
    if not is_file:
        shown = where if len(where) <= 200 else where[:60] + " ..."
        raise Refused(
            f"no image file at {shown}",
            reason="missing file",
            expected="the path of an image",
            fix="check the path (relative to the image root)",
        )
    if path.stat().st_size == 0:
        raise Refused(
            f"{where} is empty (0 bytes)", reason="empty file", expected=_EXPECTED, fix="copy or download it again"
        )


def _check_size(picture: Image.Image, where: str) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise _too_large(where, f"{picture.width}×{picture.height} pixels")


def _array_from_pil(picture: Image.Image, where: str) -> np.ndarray:
    _check_size(picture, where)  # known from the header: nothing is decoded before
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise Refused(
            f"{where} holds {frames} frames",
            reason="multi-frame",
            expected="one image",
            fix="save the frame you mean",
        )
    tags = getattr(picture, "tag_v2", {})
    white_is_zero, stored_bits = tags.get(_PHOTOMETRIC) == 0, tags.get(_BITS_PER_SAMPLE, (16,))[0]
    full = str(picture.info.get(_BITS_USED, "")) == "16"  # written by save_png16
    aspect = _pixel_aspect(picture)
    picture = ImageOps.exif_transpose(picture)
    pixels = np.asarray(picture if picture.mode in ("L", "RGB", "F") or picture.mode[0] == "I" else _converted(picture))
    if picture.mode[0] == "I":
        if pixels.min() < 0 or pixels.max() > _MAX_16:
            raise Refused(
                f"{where} holds values from {pixels.min()} to {pixels.max()}",
                reason="bad values",
                expected="8 or 16 bit, unsigned",
            )
        image = pixels.astype(np.float32) / np.float32(2 ** _bits(int(pixels.max()), stored_bits, full) - 1)
    else:
        image = _gray_from_array(pixels, where)
    # Pillow inverts WhiteIsZero pictures of 1 and 8 bits, and leaves the others as they are stored.
    if white_is_zero and (picture.mode == "F" or picture.mode[0] == "I"):
        image = 1.0 - image
    return square_pixels(image, aspect, where)


def _converted(picture: Image.Image) -> Image.Image:
    return picture.convert("L" if picture.mode in ("1", "LA", "La") else "RGB")


def _bits(highest: int, stored: int, full: bool) -> int:
    """Bits that the values of a 16-bit picture use: those of the file where it says 12, else 8, 10 or 12 if they suffice.

    A picture of 12 bits in a 16-bit file would be nearly black; no radiograph of 16 bits is.
    """
    if full:
        return 16
    if stored < 16 and highest < 2**stored:
        return stored
    return next((bits for bits in (8, 10, 12) if highest < 2**bits), 16)


def _pixel_aspect(picture: Image.Image) -> float:
    """Height over width of a pixel, from the resolutions that TIFF, JPEG, PNG and BMP store; 1 where they do not."""
    info = picture.info
    density = info.get("dpi") or info.get("resolution") or info.get("jfif_density") or info.get("aspect")
    try:
        across, down = (float(value) for value in density or (1, 1))
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0
    if not (across > 0 and down > 0):
        return 1.0
    turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)  # rows and columns are exchanged
    return down / across if turned else across / down


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
        raise _too_large(where, f"{new_width}×{new_height} pixels once they are square")
    return np.clip(_resize(np.ascontiguousarray(image, dtype=np.float32), new_height, new_width), 0.0, 1.0)


def _gray_from_array(pixels: np.ndarray, where: str) -> np.ndarray:
    expected = "[H, W], [1, H, W], [H, W, C] or [C, H, W] with C of 1, 3 or 4"
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

    Resizing comes before padding, so that the padding's edge does not bleed into the image.

    Args:
        image: float32 ``[H, W]`` in [0, 1].
        size: Pixels a side.

    Returns:
        float32 ``[size, size]`` in [0, 1], the image centred.
    """
    height, width = image.shape
    scale = size / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    if (new_height, new_width) != (height, width):
        image = _resize(np.ascontiguousarray(image, dtype=np.float32), new_height, new_width)
    square = np.zeros((size, size), dtype=np.float32)
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


def save_png16(image: np.ndarray, path: str | Path) -> None:
    """Write float ``[H, W]`` in [0, 1] as a 16-bit gray PNG that says so: a dark one is not stretched when it is read."""
    info = PngInfo()
    info.add_text(_BITS_USED, "16")
    Image.fromarray(to_uint16(image)).save(path, format="PNG", pnginfo=info)


def save_png8(image: np.ndarray, path: str | Path) -> None:
    """Write float ``[H, W]`` in [0, 1] as an 8-bit gray PNG."""
    Image.fromarray(np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)).save(path, format="PNG")
