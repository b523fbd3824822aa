"""What a reader's page loads: one script file for each image or text, all images of one length, all texts of another."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcodi.errors import DataError

PAYLOAD_CALL = re.compile(r'MEDCODI_PAYLOAD\("([^"\\]*)", (\{.*\})\);\n?', re.DOTALL)
STUDY_CALL = re.compile(r"MEDCODI_STUDY = (\{.*\});\n?", re.DOTALL)


@dataclass(frozen=True)
class Payload:
    """A payload as read back."""

    pid: str  # its random id
    fields: dict  # the JSON object but for the data
    data: bytes  # the bytes that its base64 holds

    @property
    def image(self) -> np.ndarray:
        """uint16 ``[H, W]`` of an image payload."""
        return np.frombuffer(self.data, dtype="<u2").reshape(self.fields["height"], self.fields["width"])

    @property
    def text(self) -> str:
        """The text of a text payload, padding off."""
        return self.data.decode("utf-8").rstrip(" ")


def image_fields(image: np.ndarray) -> str:
    """The JSON object of an image payload.

    Args:
        image: uint16 ``[H, W]``, bone bright.
    """
    height, width = image.shape
    data = base64.b64encode(np.ascontiguousarray(image, dtype="<u2").tobytes()).decode("ascii")
    return f'{{"kind":"image","width":{width},"height":{height},"bits":16,"data":"{data}"}}'


def text_fields(text: str, num_bytes: int) -> str:
    """The JSON object of a text payload.

    Args:
        text: At most ``num_bytes`` in UTF-8.
        num_bytes: Its length once padded with spaces: the same for all texts of a bundle.
    """
    data = text.encode("utf-8")
    assert len(data) <= num_bytes
    return json.dumps(
        {"kind": "text", "data": base64.b64encode(data.ljust(num_bytes)).decode("ascii")}, separators=(",", ":")
    )


def payload_script(pid: str, fields: str) -> bytes:
    """A payload file: a call of the viewer's function."""
    return f'MEDCODI_PAYLOAD("{pid}", {fields});\n'.encode("ascii")


def study_script(study: dict) -> bytes:
    """The study file: a plain assignment."""
    return f"MEDCODI_STUDY = {json.dumps(study, ensure_ascii=True, separators=(',', ':'))};\n".encode("ascii")


def read_payload(path: Path) -> Payload:
    """Read a payload file back.

    Raises:
        DataError: If it is not one, or its data is not what its fields say.
    """
    text = path.read_bytes().decode("utf-8", "replace")
    found = PAYLOAD_CALL.fullmatch(text)
    if not found:
        raise DataError(f"{path.name} is not a payload", expected='MEDCODI_PAYLOAD("id", {...}); and nothing else')
    try:
        fields = json.loads(found.group(2))
        data = base64.b64decode(fields.pop("data"), validate=True)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path.name} cannot be read: {error}", expected="JSON with base64 data") from None
    return Payload(found.group(1), fields, data)


def read_study_script(path: Path) -> dict:
    """Read ``study.js`` back.

    Raises:
        DataError: If it is missing or not what the exporter writes.
    """
    try:
        found = STUDY_CALL.fullmatch(path.read_text(encoding="utf-8"))
        study = json.loads(found.group(1)) if found else None
    except (OSError, ValueError):
        study = None
    if not isinstance(study, dict):
        raise DataError(f"no study in {path}", expected="study.js as exported", fix="give the folder of a bundle")
    return study
