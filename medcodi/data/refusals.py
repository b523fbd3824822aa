"""Refusals of data: of single images, reports and studies, with a short reason for the ledger; and of data that do not arrive."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medcodi.errors import DataError, first_line

if TYPE_CHECKING:
    from medcodi.data.loading import GlobalBatches


# ---- refusals ----
LATE_WORD_S = 2.0  # from the broken connection of a dead worker to the signal of its death
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


# ---- data that do not arrive: which rank, which worker, which studies ------------------------------------------------
def missing(source: GlobalBatches, step: int, why: str = "") -> str:
    """The rank, worker and studies whose step did not arrive."""
    worker = f"; by worker {(step - source.first_step) % source.num_workers} of {source.num_workers}"
    return (
        f"rank {source.rank}: step {step} of {source.dataset.name} did not come{f' ({why})' if why else ''}; "
        f"studies number {source.share(step)[:8]}{worker if source.num_workers else ''}"
    )


def workers_failed(source: GlobalBatches, step: int, error: Exception) -> DataError | None:
    """The refusal for workers that are late, or dead: torch reports them by the text of its errors alone.

    None if the error is of another kind. Torch's handler of dead workers may raise it anywhere, not only while waiting.
    """
    text = first_line(error) if str(error) else ""
    if isinstance(error, RuntimeError) and "DataLoader" not in text:
        return None
    if "timed out" in text:
        refusal = DataError(
            missing(source, step, f"within {source.timeout_s:g} s"),
            expected="workers that read",
            fix="look at the disk or network of the data",
        )
    else:
        # A connection broke: torch's word of the dead worker is on its way still, and would break into whatever the run does then.
        if not isinstance(error, RuntimeError):
            with suppress(RuntimeError):
                time.sleep(LATE_WORD_S)
        refusal = DataError(
            missing(source, step, text or f"a worker left: {type(error).__name__}"),
            expected="workers that live",
            fix="fewer num_workers need less memory",
        )
    refusal.exit_code = 3  # what failed was a machine: it may do better next time
    return refusal
