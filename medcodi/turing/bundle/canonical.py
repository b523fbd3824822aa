"""Canonical JSON: the same text in Python and in the viewer's JavaScript (``checksum.js``), so that hashes agree."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with keys sorted by UTF-16 (as JavaScript sorts), no spaces, numbers as JavaScript writes them.

    Raises:
        ValueError: If the value holds NaN, infinity, or anything else that is not JSON.
    """
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{canonical_json(str(key))}:{canonical_json(value[key])}" for key in keys) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(canonical_json(item) for item in value) + "]"
    if isinstance(value, float):
        return javascript_number(value)
    if value is None or isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False)
    raise ValueError(f"a {type(value).__name__} is not JSON")


def javascript_number(value: float) -> str:
    """A float as ECMAScript's Number::toString (ECMA-262, 6.1.6.1.20) writes it: ``12``, ``0.5``, ``1e-7``, ``1e+21``."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not JSON")
    if value == 0:
        return "0"
    # The shortest digits that round-trip (Python's repr), and the position of the decimal point among them.
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))  # n of ECMA-262
    digits = digits.rstrip("0")
    # Plain notation between 1e-7 and 1e21, else an exponent.
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + digits[0] + (f".{digits[1:]}" if count > 1 else "") + power


def sha256_of(value: Any, *, salt: str = "") -> str:
    """SHA-256 (hexadecimal) of ``salt`` followed by the canonical JSON of ``value``."""
    return hashlib.sha256((salt + canonical_json(value)).encode("utf-8", "surrogatepass")).hexdigest()
