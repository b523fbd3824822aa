"""DICOM pixels in: decoding, and the gray-scale transformation from stored values to [0, 1] with bone bright."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medcodi.data.refusals import Refused
from medcodi.errors import MissingExtraError, first_line

if TYPE_CHECKING:
    from pydicom import Dataset


def stored_pixels(dataset: Dataset, where: str) -> np.ndarray:
    """Stored values ``[H, W]``, integer (or float where the file holds floats).

    Raises:
        Refused: If they are corrupt or cut short.
        MissingExtraError: If the decoder of their compression is not installed.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID", "unknown") if hasattr(dataset, "file_meta") else "unknown"
    try:
        plain = _uncompressed(dataset)
        return dataset.pixel_array if plain is None else plain
    except (RuntimeError, NotImplementedError) as error:  # pydicom: no decoder for this transfer syntax
        name = getattr(syntax, "name", str(syntax))
        if "missing dependencies" in str(error):
            raise MissingExtraError(
                "pylibjpeg", extra="dicom", needed_for=f"{name}, the compression of {where}"
            ) from error
        raise Refused(
            f"{where}: its pixels cannot be decoded ({name}: {first_line(error)})",
            reason="corrupt",
            expected="whole pixel data",
            fix="export it again",
        ) from error
    except Exception as error:  # decoders are foreign code: whatever they raise on broken data
        raise Refused(
            f"{where}: its pixels are corrupt ({type(error).__name__}: {error})",
            reason="corrupt",
            expected="whole pixel data",
            fix="export it again",
        ) from error


def _uncompressed(dataset: Dataset) -> np.ndarray | None:
    """Plain little-endian pixels without a copy, or None where pydicom's decoders are needed."""
    allocated = int(dataset.get("BitsAllocated") or 0)
    if allocated not in (8, 16) or "PixelData" not in dataset or dataset.file_meta.TransferSyntaxUID not in (
        "1.2.840.10008.1.2", "1.2.840.10008.1.2.1",
    ):  # fmt: skip
        return None
    kind = "i" if int(dataset.get("PixelRepresentation") or 0) else "u"
    shape = (int(dataset.Rows), int(dataset.Columns))
    length = shape[0] * shape[1] * allocated // 8
    if len(dataset.PixelData) < length:
        raise ValueError(f"{len(dataset.PixelData):,} bytes of pixels where {length:,} are due")
    pixels = np.frombuffer(dataset.PixelData, dtype=f"<{kind}{allocated // 8}", count=shape[0] * shape[1])
    unused = allocated - int(dataset.get("BitsStored") or allocated)
    if unused > 0:  # what stands in the high bits is not the image's (old overlays), or not yet its sign
        pixels = (pixels << unused) >> unused
    return pixels.reshape(shape)


def display_from_stored(dataset: Dataset, pixels: np.ndarray, where: str) -> np.ndarray:
    """Stored values ``[H, W]`` -> float32 in [0, 1], bone bright, as the tags say.

    Raises:
        Refused: If the pixels are no gray image, are all padding, or the look-up tables are broken.
    """
    try:
        return _display_values(dataset, pixels)
    except Refused:
        raise
    except Exception as error:  # tags of any type and length
        raise Refused(
            f"{where}: its look-up tables are corrupt ({type(error).__name__}: {error})",
            reason="corrupt",
            expected="whole look-up tables, or none",
            fix="export it again",
        ) from error


def _display_values(dataset: Dataset, pixels: np.ndarray) -> np.ndarray:
    """Stored values -> float32 in [0, 1], bone bright: one look-up, since at most 65,536 stored values exist."""
    if pixels.ndim != 2:
        raise Refused(f"pixels of shape {list(pixels.shape)}", reason="bad shape", expected="one gray image [H, W]")
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        return _transfer(dataset, pixels, pixels).astype(np.float32)
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    every_value = np.arange(2 ** (8 * pixels.dtype.itemsize), dtype=unsigned).view(pixels.dtype.newbyteorder("="))
    table = _transfer(dataset, every_value, pixels).astype(np.float32)
    return np.take(table, np.ascontiguousarray(pixels).view(unsigned.newbyteorder("<")))


def _transfer(dataset: Dataset, values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The whole gray-scale transformation, applied to ``values``; ``pixels`` gives the range where no window does."""
    from pydicom.pixels import apply_modality_lut

    padding = dataset.get("PixelPaddingValue")
    modality_values = apply_modality_lut(values, dataset)
    if dataset.get("VOILUTSequence"):
        shown = _apply_voi_lut(modality_values, dataset)
    elif _window(dataset) is not None:
        shown = _apply_window(modality_values, dataset)
    else:
        inside = pixels if padding is None else pixels[pixels != padding]
        if inside.size == 0:
            raise Refused("pixels that are all padding", reason="constant", expected="a picture", fix="leave it out")
        ends = apply_modality_lut(np.array([inside.min(), inside.max()]).astype(pixels.dtype), dataset)
        shown = _between(modality_values, float(ends.min()), float(ends.max()))
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        shown = 1.0 - shown
    return shown if padding is None else np.where(values == padding, 0.0, shown)


def _apply_voi_lut(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """DICOM PS3.3 C.11.2.1.1, onto [0, 1] by the table's own range, since descriptors often misstate the bits.

    Written out because pydicom 3.0 looks inputs up modulo 256 in tables of 8-bit entries.
    """
    item = dataset.VOILUTSequence[0]
    num, first = int(item.LUTDescriptor[0]) or 2**16, int(item.LUTDescriptor[1])
    data = item.LUTData
    if isinstance(data, bytes):  # OW: words, or two 8-bit entries in a word
        word = "<u2" if dataset.original_encoding[1] is not False else ">u2"
        data = np.frombuffer(data, word if len(data) >= 2 * num else "u1")
    table = np.atleast_1d(np.asarray(data, dtype=np.float64))[:num]
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return _between(table[index], float(table.min()), float(table.max()))


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window, or None."""

    def first(keyword: str) -> float | None:
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        return float(value) if isinstance(value, int | float | str) else float(value[0])

    try:
        centre, width = first("WindowCenter"), first("WindowWidth")
    except (TypeError, ValueError, IndexError):
        return None
    return None if centre is None or width is None or width <= 0 else (centre, width)


def _apply_window(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, onto [0, 1]."""
    window = _window(dataset)
    assert window is not None
    centre, width = window
    values = np.asarray(values, dtype=np.float64)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700.0, 700.0)))
    if function == "LINEAR_EXACT" or width <= 1:
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    return np.clip((values - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)
