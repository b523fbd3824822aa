"""Messages for data that do not arrive: which rank, which worker, which studies."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from medcodi.errors import DataError, first_line

if TYPE_CHECKING:
    from medcodi.data.loading import GlobalBatches

LATE_WORD_S = 2.0  # from the broken connection of a dead worker to the signal of its death


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
        if not isinstance(
            error, RuntimeError
        ):  # a connection broke: torch's word of the dead worker is on its way still,
            with suppress(RuntimeError):  # and would break into whatever the run does then
                time.sleep(LATE_WORD_S)
        refusal = DataError(
            missing(source, step, text or f"a worker left: {type(error).__name__}"),
            expected="workers that live",
            fix="fewer num_workers need less memory",
        )
    refusal.exit_code = 3  # what failed was a machine: it may do better next time
    return refusal
