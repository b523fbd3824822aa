"""Refusals of single images, reports and studies, with a short reason for the ledger."""

from __future__ import annotations

from pathlib import Path

from medcodi.errors import DataError

EXPECTED_FILE = "a PNG, JPEG, JPEG 2000, TIFF, BMP, WebP or DICOM file"


class Refused(DataError):  # noqa: N818 -- the ledger counts what was refused, not errors
    """One image, report or study that cannot be used."""

    def __init__(self, failed: str, *, reason: str = "unusable", expected: str = "", fix: str = "") -> None:
        """Compose the message.

        Args:
            failed: What failed, with the value that was seen.
            reason: Two or three words, the same for every refusal of this kind: the ledger counts by it.
            expected: What was expected instead.
            fix: What the user can do now.
        """
        super().__init__(failed, expected=expected, fix=fix)
        self.reason = reason


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
            f"{where} is empty (0 bytes)", reason="empty file", expected=EXPECTED_FILE, fix="copy or download it again"
        )
