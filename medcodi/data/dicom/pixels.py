"""DICOM pixels in: decoding, and the gray-scale transformation from stored values to [0, 1] with bone bright."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from medcodi.data.dicom.tags import Tags
from medcodi.data.refusals import Refused
from medcodi.errors import MissingExtraError, first_line

# Uncompressed transfer syntaxes -> byte order of 16-bit values.
_BYTE_ORDER = {"1.2.840.10008.1.2": "<", "1.2.840.10008.1.2.1": "<", "1.2.840.10008.1.2.2": ">"}
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def stored_pixels(tags: Tags) -> np.ndarray:
    """Stored values ``[H, W]``, integer (or float where the file holds floats), in this machine's byte order.

    Raises:
        Refused: If they are corrupt or cut short.
        MissingExtraError: If the decoder of their compression is not installed.
    """
    dataset, where = tags.dataset, tags.where
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "unknown")
    plain = _uncompressed(tags, str(syntax))
    if plain is not None:
        return plain
    stored = tags.integer("BitsStored", default=tags.integer("BitsAllocated", default=16))
    if tags.integer("HighBit", default=stored - 1) != stored - 1:
        raise Refused(
            f"{where} stores {stored} bits with High Bit {tags.integer('HighBit')}",
            reason="invalid tag",
            expected=f"High Bit {stored - 1}",
            fix="export it uncompressed",
        )
    _check_stream(tags)
    try:
        pixels = dataset.pixel_array
    except Exception as error:  # decoders are foreign code: whatever they raise on broken data
        name = getattr(syntax, "name", str(syntax))
        if missing := _missing_decoders(syntax):
            raise MissingExtraError(missing, extra="dicom", needed_for=f"{name}, the compression of {where}") from error
        raise Refused(
            f"{where}: its pixels are corrupt or cut short ({name}: {_reasons(error)[:200]})",
            reason="corrupt",
            expected="whole pixel data",
            fix="copy or export it again",
        ) from error
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _reasons(error: Exception) -> str:
    """The error of decoding; of several decoders, that of the first one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else first_line(error)


def _check_stream(tags: Tags) -> None:
    """Refuse a compressed picture whose own size or depth is not the tags': it would be cut into other rows, or lose bits.

    Raises:
        Refused: If Rows and Columns are not the size in the stream, or it has more bits than Bits Allocated.
    """
    from pydicom.encaps import get_frame

    try:
        stream = read_stream(get_frame(tags.dataset.PixelData, 0, number_of_frames=1))
    except Exception:  # no frame, or one that is cut short: the decoder says so
        return
    if stream is None:
        return
    height, width, allocated = (tags.integer(name) for name in ("Rows", "Columns", "BitsAllocated"))
    if (stream.height, stream.width) != (height, width) or stream.bits > allocated:
        raise Refused(
            f"{tags.where} holds a compressed picture of {stream.width}×{stream.height} pixels of {stream.bits} bits, and its tags "
            f"say {width}×{height} of {allocated}",
            reason="invalid tag",
            expected="Rows, Columns and Bits Allocated of the picture",
            fix="correct the tags, or export it again",
        )
    # Lossy values may exceed Bits Stored, above which a decoder would cut them to small ones: the picture's depth counts.
    if not tags.integer("PixelRepresentation", default=0) and stream.bits > tags.integer(
        "BitsStored", default=allocated
    ):
        tags.dataset.BitsStored, tags.dataset.HighBit = stream.bits, stream.bits - 1


class Stream(NamedTuple):
    """The head of a compressed picture."""

    height: int
    width: int
    bits: int  # of a value


def read_stream(data: bytes) -> Stream | None:
    """The head of a JPEG, JPEG-LS or JPEG 2000 stream; None of others."""
    # JPEG 2000: the SIZ segment, also within a JP2 file (ISO 15444-1, A.5.1): the image's end less its offset.
    start = data.find(b"\xff\x4f\xff\x51", 0, 1024)
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
        return Stream(bottom - top, right - left, (data[start + 42] & 0x7F) + 1)
    # JPEG: the first start of frame (ITU T.81, B.2.2; JPEG-LS: 0xF7). Other segments are skipped by their length.
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker == 0xFF:  # a fill byte
            place += 1
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            bits, height, width = struct.unpack_from(">B2H", data, place + 4)
            return Stream(height, width, bits) if height else None  # 0: it is in a later segment
        else:
            place += 2 + length
    return None


def _missing_decoders(syntax: Any) -> str:
    """The pylibjpeg plugin that could decode this transfer syntax and is not installed, or ""."""
    from pydicom.pixels import get_decoder

    try:
        needed = [name for name in get_decoder(syntax).missing_dependencies if "pylibjpeg" in name]
    except NotImplementedError:  # no decoder exists at all
        return ""
    return needed[0] if needed else ""


def _uncompressed(tags: Tags, syntax: str) -> np.ndarray | None:
    """Plain pixels, without a copy where nothing has to be moved; None where pydicom's decoders are needed."""
    dataset, allocated = tags.dataset, tags.integer("BitsAllocated", default=0)
    order = _BYTE_ORDER.get(syntax)
    if allocated not in (8, 16) or "PixelData" not in dataset or order is None or (order == ">" and allocated == 8):
        return None
    kind = "i" if tags.integer("PixelRepresentation", default=0) else "u"
    height, width = tags.integer("Rows"), tags.integer("Columns")
    due, data = height * width * allocated // 8, dataset.PixelData
    if len(data) < due:
        raise Refused(
            f"{tags.where} is cut short: {len(data):,} bytes of pixels, expected {due:,}",
            reason="cut short",
            expected="whole pixel data",
            fix="copy or export it again",
        )
    # A row or more: the picture would be a part of what is there, or sheared.
    if len(data) - due >= max(width * allocated // 8, 2):
        raise Refused(
            f"{tags.where} holds {len(data):,} bytes of pixels, and its tags say {width}×{height} of {allocated} bits, {due:,} bytes",
            reason="invalid tag",
            expected="Rows, Columns and Bits Allocated of the picture",
            fix="correct the tags, or export it again",
        )
    pixels = np.frombuffer(data, dtype=f"{order}{kind}{allocated // 8}", count=height * width)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    stored = tags.integer("BitsStored", default=allocated)
    high = tags.integer("HighBit", default=stored - 1)
    if not 0 < stored <= high + 1 <= allocated:
        raise Refused(
            f"{tags.where} stores {stored} of {allocated} bits with High Bit {high}",
            reason="invalid tag",
            expected="Bits Stored - 1 <= High Bit < Bits Allocated",
            fix="correct the tags, or export it again",
        )
    # Bits above the highest are not the image's (old overlays), or not yet its sign; bits below the lowest are unused.
    if kind == "u" and high == stored - 1 < allocated - 1:
        pixels = pixels & np.array(2**stored - 1, pixels.dtype)
    elif allocated > stored:
        pixels = (pixels << (allocated - 1 - high)) >> (allocated - stored)
    return pixels.reshape(height, width)


def pixel_aspect(tags: Tags) -> float:
    r"""Height over width of a pixel; 1 where the tags do not say (PS3.3 C.7.6.3.1.7; spacings are row\column)."""
    for keyword in ("PixelAspectRatio", *_SPACINGS):
        spacing = tags.numbers(keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            return spacing[0] / spacing[1]
    return 1.0


def display_from_stored(tags: Tags, pixels: np.ndarray) -> np.ndarray:
    """Stored values ``[H, W]`` -> float32 in [0, 1], bone bright, as the tags say.

    At most 65,536 stored values exist, so the whole transformation is one look-up table.

    Raises:
        Refused: If the pixels are no gray image, are all padding, or a tag is invalid.
    """
    if pixels.ndim != 2:
        raise Refused(
            f"{tags.where} has pixels of shape {list(pixels.shape)}",
            reason="bad shape",
            expected="one gray image [H, W]",
        )
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        return _transfer(tags, pixels, pixels).astype(np.float32)
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    bits = np.ascontiguousarray(pixels).view(unsigned)
    # Every value up to the greatest that occurs: a short table stays in the cache.
    every_value = np.arange(int(bits.max(initial=0)) + 1, dtype=unsigned).view(pixels.dtype)
    table = _transfer(tags, every_value, pixels).astype(np.float32)
    return np.take(table, bits, mode="clip")  # no index is beyond the table


def _transfer(tags: Tags, values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The whole gray-scale transformation, applied to ``values``; ``pixels`` gives the range where no window does."""
    modality_values = _modality_values(tags, values)
    voi_luts = [item for item in tags.items("VOILUTSequence") if _has_table(item)]
    window = _window(tags)
    if voi_luts:
        shown = _apply_voi_lut(modality_values, voi_luts[0])
    elif window is not None:
        shown = _apply_window(modality_values, *window, tags.text("VOILUTFunction").upper())
    else:
        # No window: the range of what is not padding, after rescaling.
        padded = tags.number("PixelPaddingValue") is not None
        inside = pixels[~_is_padding(tags, pixels)] if padded else pixels
        if inside.size == 0:
            raise Refused(f"{tags.where} is all padding", reason="constant", expected="a picture", fix="leave it out")
        ends = _modality_values(tags, np.array([inside.min(), inside.max()]).astype(pixels.dtype))
        shown = _between(modality_values, float(ends.min()), float(ends.max()))
    if tags.text("PhotometricInterpretation").upper() == "MONOCHROME1":
        shown = 1.0 - shown
    return np.where(_is_padding(tags, values), 0.0, shown)


def _is_padding(tags: Tags, values: np.ndarray) -> np.ndarray:
    """True where a stored value is padding: the one value, or the range to its limit (PS3.3 C.7.5.1.1.2)."""
    padding = tags.number("PixelPaddingValue")
    if padding is None:
        return np.zeros(values.shape, dtype=bool)
    limit = tags.number("PixelPaddingRangeLimit")
    ends = np.array([padding, padding if limit is None else limit])
    if values.dtype.kind in "iu":  # the tag's type may be the other signedness than the pixels'
        span = 2 ** (8 * values.dtype.itemsize)
        info = np.iinfo(values.dtype)
        ends = np.where(ends > info.max, ends - span, np.where(ends < info.min, ends + span, ends))
    return (values >= ends.min()) & (values <= ends.max())


def _modality_values(tags: Tags, values: np.ndarray) -> np.ndarray:
    """Modality LUT, or slope and intercept where they have values (PS3.3 C.11.1)."""
    if any(_has_table(item) for item in tags.items("ModalityLUTSequence")):
        from pydicom.pixels import apply_modality_lut

        return apply_modality_lut(values, tags.dataset)
    slope, intercept = tags.number("RescaleSlope"), tags.number("RescaleIntercept")
    if slope is None and intercept is None:
        return values
    return values.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)


def _has_table(item: Tags) -> bool:
    return bool(item.values("LUTDescriptor")) and bool(item.values("LUTData"))


def _apply_voi_lut(values: np.ndarray, item: Tags) -> np.ndarray:
    """DICOM PS3.3 C.11.2.1.1, onto [0, 1] by the table's own range, since descriptors often misstate the bits.

    Written out because pydicom 3.0 looks inputs up modulo 256 in tables of 8-bit entries.
    """
    num, first = (int(value) for value in item.values("LUTDescriptor")[:2])
    num = num or 2**16
    data = item.dataset.LUTData
    if isinstance(data, bytes):  # OW: words, or two 8-bit entries in a word
        word = "<u2" if item.dataset.original_encoding[1] is not False else ">u2"
        data = np.frombuffer(data, word if len(data) >= 2 * num else "u1")
    table = np.atleast_1d(np.asarray(data, dtype=np.float64))[:num]
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return _between(table[index], float(table.min()), float(table.max()))


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)


def _window(tags: Tags) -> tuple[float, float] | None:
    """Centre and width of the first window, or None."""
    centre, width = tags.number("WindowCenter"), tags.number("WindowWidth")
    return None if centre is None or width is None or width <= 0 else (centre, width)


def _apply_window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, onto [0, 1]."""
    values = np.asarray(values, dtype=np.float64)
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700.0, 700.0)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    if width <= 1:  # a step
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)
