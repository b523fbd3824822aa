"""Payloads of a bundle, written and read back: one script per image or text, of one length for all images and one for all texts.

An image is a grey PNG in base64 inside a script, because a page opened from ``file://`` may read scripts and nothing else.
"""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcodi.errors import DataError
from medcodi.storage.checked_json import parse_json
from medcodi.turing.design.blinding import WHITE

_PNG = b"\x89PNG\r\n\x1a\n"
_CALL = re.compile(r'MEDCODI_PAYLOAD\("([^"\\]*)", (\{.*\}) *\);\n?', re.DOTALL)  # filled up with spaces


# ---- writing ---------------------------------------------------------------------------------------------------------
def image_content(image: np.ndarray, bits: int) -> bytes:
    """Content of an image payload.

    Args:
        image: uint16 ``[H, W]`` from 0 to 65535, bone bright; rounded to ``bits``.
        bits: Bits of grey, 1 to 16; up to 8 are stored in one byte.
    """
    height, width = image.shape
    levels = np.rint(image * ((2**bits - 1) / WHITE)).astype(np.uint8 if bits <= 8 else np.uint16)
    png = io.BytesIO()
    Image.fromarray(levels).save(png, "PNG", optimize=True)
    return _content({"kind": "image", "width": width, "height": height, "bits": bits}, png.getvalue())


def text_content(text: str, num_bytes: int) -> bytes:
    """Content of a text payload, padded with spaces to ``num_bytes``, which all texts of a bundle share."""
    data = text.encode("utf-8")
    assert len(data) <= num_bytes
    return _content({"kind": "text"}, data.ljust(num_bytes))


def _content(fields: dict[str, Any], data: bytes) -> bytes:
    fields = {**fields, "data": base64.b64encode(data).decode("ascii")}
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def of_one_length(contents: list[bytes]) -> list[bytes]:
    """Contents filled up with spaces to the longest one."""
    longest = max(map(len, contents), default=0)
    return [content.ljust(longest) for content in contents]


def payload_script(pid: str, content: bytes) -> bytes:
    """A payload file: a call of the viewer's function."""
    return b'MEDCODI_PAYLOAD("%b", %b);\n' % (pid.encode("ascii"), content)


# ---- reading ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Payload:
    """A payload as read back."""

    pid: str  # random id
    fields: dict[str, Any]  # the JSON object without the data
    data: bytes  # a PNG, the bytes of a text, or 16-bit grey values as bundles of version 0.1 hold them

    @cached_property
    def image(self) -> np.ndarray:
        """Image uint16 ``[H, W]``, from 0 to 65535.

        Raises:
            DataError: If the data is no grey image of the size in the fields.
        """
        try:
            width, height, bits = (int(self.fields[name]) for name in ("width", "height", "bits"))
            if not self.data.startswith(_PNG):
                return np.frombuffer(self.data, dtype="<u2").reshape(height, width)
            with Image.open(io.BytesIO(self.data), formats=("PNG",)) as picture:
                if picture.size != (width, height) or picture.mode != ("L" if bits <= 8 else "I;16"):
                    raise ValueError(f"a PNG of mode {picture.mode}, {picture.width} x {picture.height}")
                levels = np.asarray(picture)
        except (KeyError, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            what = f"payload {self.pid} is no grey image of the size it states: {error}"
            raise DataError(what, expected="a payload as exported", fix="export again") from None
        return np.rint(np.minimum(levels, 2**bits - 1) * (WHITE / (2**bits - 1))).astype(np.uint16)

    @property
    def text(self) -> str:
        """Text without the padding.

        Raises:
            DataError: If it is none.
        """
        try:
            return self.data.decode("utf-8").rstrip(" ")
        except UnicodeDecodeError:
            raise DataError(
                f"payload {self.pid} is no text", expected="a payload as exported", fix="export again"
            ) from None


def read_payload(path: Path) -> Payload:
    """Read a payload file.

    Raises:
        DataError: If it is no payload, or its data is unreadable.
    """
    match = _CALL.fullmatch(path.read_bytes().decode("utf-8", "replace"))
    if not match:
        raise DataError(f"{path.name} is not a payload", expected='MEDCODI_PAYLOAD("id", {...}); and nothing else')
    try:
        fields = parse_json(match.group(2).encode(), path.name)
        data = base64.b64decode(fields.pop("data"), validate=True)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path.name} cannot be read: {error}", expected="JSON with base64 data") from None
    return Payload(match.group(1), fields, data)
