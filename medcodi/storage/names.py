"""File names that come out of data (an index, a UID, a cell, a manifest): a plain name inside its folder, or refused."""

from __future__ import annotations

import re
import unicodedata

from medcodi.errors import DataError, MedCoDiError

MAX_BYTES = 240  # of a name: file systems allow 255, and temporary names add a few
# Control characters, and what one of the common systems takes for a separator, a stream or a wildcard.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
# Devices of Windows, whatever follows a dot or spaces.
_RESERVED = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|COM[0-9¹²³]|LPT[0-9¹²³]) *(?:\..*)?", re.IGNORECASE)


def is_plain_name(name: str) -> bool:
    """Whether a text can name a file inside a folder on Linux, macOS and Windows, and nothing outside it."""
    try:
        num_bytes = len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return (
        0 < num_bytes <= MAX_BYTES
        and name not in (".", "..")
        and name == name.strip()
        and not name.endswith(".")
        and not _FORBIDDEN.search(name)
        and not _RESERVED.fullmatch(name)
    )


def plain_name(
    name: object,
    source: str,
    error: type[MedCoDiError] = DataError,
    fix: str = "do not use it: its author can make it point outside the folder",
) -> str:
    """Return a name if it is plain.

    Args:
        name: The name as the data give it.
        source: Where it comes from, for the message: ``"models/x/model_index.json"``.
        error: Class of the refusal.
        fix: What the user does instead.

    Raises:
        DataError: Of class ``error``, if it is no plain file name.
    """
    if isinstance(name, str) and is_plain_name(name):
        return name
    raise error(
        f"{source} names the file {str(name)[:80]!r}",
        expected="a plain file name inside its folder",
        fix=fix,
    )


def stays_inside(name: str) -> bool:
    """Whether a visible file or folder of that name is in its folder: enough to read what an earlier version has named."""
    return bool(name) and not name.startswith(".") and not set(name) & set("/\\:\0")


def collision_key(name: str) -> str:
    """Names with one key are one file where case, or the form of accents, does not count (macOS, Windows)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
