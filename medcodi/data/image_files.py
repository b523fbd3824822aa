"""Image files in: PNG, JPEG, JPEG 2000, TIFF, BMP, WebP or DICOM to float32 [H, W] in [0, 1], by content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medcodi.data.dicom.reading import check_view, read_dicom, read_header
from medcodi.data.images import BITS_USED, MAX_PIXELS, check_image, gray_from_array, square_pixels, too_large
from medcodi.data.refusals import EXPECTED_FILE, Refused, check_file
from medcodi.errors import MedCoDiError, first_line

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".webp")
DICOM_SUFFIXES = (".dcm", ".dicom")
_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP")  # Pillow's; others start programs, or are no radiographs
_MAX_16 = 65535
_PHOTOMETRIC, _BITS_PER_SAMPLE, _ORIENTATION = 262, 258, 0x0112  # TIFF tags


def read_image(value: Any, *, allow_constant: bool = False, modality: str | None = None) -> np.ndarray:
    """Read one image, whatever holds it.

    Args:
        value: A path (PNG, JPEG, JPEG 2000, TIFF, BMP, WebP, DICOM: by content), a PIL image, an array or a
            tensor: uint8, uint16, bool, or float in [0, 1]; ``[H, W]``, ``[1, H, W]``, ``[H, W, C]`` or ``[C, H, W]``
            with C of 1, 3 or 4. Colour becomes luminance, alpha is dropped.
        allow_constant: Take an image that is all of one value (a generated one, which is judged as it is).
        modality: The image modality that it is given as; a DICOM file whose view position names another is refused.

    Returns:
        float32 ``[H, W]`` in [0, 1], with square pixels; 16 bit are kept. 16-bit files that use 8, 10, 12 or 14 bits
        are stretched to them.

    Raises:
        Refused: If there is no image there, it is smaller than 32 pixels on a side, or all of one value.
    """
    if isinstance(value, str | Path):
        where = str(value)
        image = _read_file(Path(value), where, modality)
    elif isinstance(value, Image.Image):
        where = "the PIL image"
        with _reading(where):
            image = _array_from_pil(value, where)
    elif hasattr(value, "detach"):  # a torch.Tensor, without importing torch here
        where = "the tensor"
        value = value.detach().cpu()
        image = gray_from_array((value.float() if "float" in str(value.dtype) else value).numpy(), where)
    elif isinstance(value, np.ndarray):
        where = "the array"
        image = gray_from_array(value, where)
    else:
        raise Refused(
            f"a {type(value).__name__} is not an image",
            reason="not an image",
            expected="a path, a PIL image, an array or a tensor",
        )
    return check_image(image, where, allow_constant=allow_constant)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its magic number, or by its suffix where the preamble is missing."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_file(path: Path, where: str, modality: str | None) -> np.ndarray:
    check_file(path, where)
    if is_dicom(path):
        dicom = read_dicom(path)
        check_view(dicom.header, modality, where)
        return dicom.image
    with _reading(where), Image.open(path, formats=_FORMATS) as picture:
        return _array_from_pil(picture, where)


def check_image_file(path: Path, modality: str | None = None) -> None:
    """Refuse a file that is no image, by its header alone: pixels are not decoded.

    Raises:
        Refused: As :func:`read_image` refuses it, as far as the header shows.
        MissingExtraError: If it is a DICOM file and pydicom is not installed.
    """
    where = str(path)
    check_file(path, where)
    if is_dicom(path):
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
            expected=EXPECTED_FILE,
            fix="convert it to PNG",
        ) from None
    except Image.DecompressionBombError as error:
        raise too_large(where, first_line(error)) from None
    except Exception as error:  # decoders are foreign code on foreign bytes: any kind is possible
        raise Refused(
            f"{where} is corrupt or cut short ({type(error).__name__}: {first_line(error)[:200]})",
            reason="corrupt",
            expected="a whole image file",
            fix="copy or download it again",
        ) from None


def _check_size(picture: Image.Image, where: str) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise too_large(where, f"{picture.width}×{picture.height} pixels")


def _array_from_pil(picture: Image.Image, where: str) -> np.ndarray:
    _check_size(picture, where)  # known from the header: nothing is decoded before
    # Several pages or frames: which one is meant cannot be known.
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
    full = str(picture.info.get(BITS_USED, "")) == "16"  # written by save_png16
    # The resolution refers to the stored orientation, before EXIF turns the picture.
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
        image = gray_from_array(pixels, where)
    # Pillow inverts WhiteIsZero pictures of 1 and 8 bits, and leaves the others as they are stored.
    if white_is_zero and (picture.mode == "F" or picture.mode[0] == "I"):
        image = 1.0 - image
    return square_pixels(image, aspect, where)


def _converted(picture: Image.Image) -> Image.Image:
    return picture.convert("L" if picture.mode in ("1", "LA", "La") else "RGB")


def _bits(highest: int, stored: int, full: bool) -> int:
    """Bits that the values of a 16-bit picture use: those of the file where it says 12, else 8, 10, 12 or 14 if they suffice.

    A picture of 12 bits in a 16-bit file would be nearly black; no radiograph of 16 bits is.
    """
    if full:
        return 16
    if stored < 16 and highest < 2**stored:
        return stored
    return next((bits for bits in (8, 10, 12, 14) if highest < 2**bits), 16)


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
