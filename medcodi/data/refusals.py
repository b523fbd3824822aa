"""Why an image, report or study is left out: a short reason for the ledger beside the message for the user."""

from __future__ import annotations

from medcodi.errors import DataError


class Refused(DataError):  # noqa: N818 -- the ledger counts what was refused, not errors
    """One image, report or study that cannot be used."""

    def __init__(self, failed: str, *, reason: str = "unusable", expected: str = "", fix: str = "") -> None:
        """Compose the message.

        Args:
            failed: What failed, with the value that was seen.
            reason: Two or three words, the same for every refusal of this sort: the ledger counts by it.
            expected: What was expected instead.
            fix: What the user can do now.
        """
        super().__init__(failed, expected=expected, fix=fix)
        self.reason = reason
