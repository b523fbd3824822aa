"""Sending an outbox: study after study, tried again while the server is away, until every instance is confirmed once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from medcodi.pacs.outbox import Outbox, OutgoingStudy, Receipt
from medcodi.pacs.servers import Address, Server, ServerError, UnreachableError, connect, read_address

RETRY_S = 60.0  # how long a server that is away is tried again
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


@dataclass(kw_only=True)
class Delivery:
    """Outcome of one sending.

    Attributes:
        studies: Studies in the outbox.
        sent: Instances that the server confirmed now.
        before: Instances that it had confirmed before.
        problems: Study Instance UID -> why an instance of it stays in the outbox, in words.
    """

    studies: int = 0
    sent: int = 0
    before: int = 0
    problems: dict[str, str] = field(default_factory=dict)


def send(
    outbox: Outbox,
    to: str,
    *,
    retry_s: float = RETRY_S,
    on_progress: Callable[[int, int], None] | None = None,
) -> Delivery:
    """Send what a server has not confirmed yet.

    An instance is sent again only where its confirmation was lost; servers know it by its SOP Instance UID. Studies that the server
    refuses stay in the outbox, and the others are sent.

    Args:
        outbox: The outbox.
        to: Address of the server: ``https://host/dicom-web`` or ``dicom://host:port/AET``.
        retry_s: Seconds for which a server that is away or busy is tried again, since its last answer.
        on_progress: Called with (studies done, studies in all).

    Returns:
        What arrived, and what was refused and why.

    Raises:
        UnreachableError: If the server stays away: what has arrived is written down, the rest stays.
        ServerError: If the address is invalid, or the server would refuse everything.
        DataError: If the folder is no outbox, is being sent by another process, or cannot be written.
        MissingExtraError: If a package is not installed.
    """
    address = read_address(to)
    server, delivery, patience = connect(address), Delivery(), _Patience(retry_s)
    studies = outbox.studies()
    delivery.studies = len(studies)
    with outbox.sending(address):
        for number, study in enumerate(studies):
            if on_progress is not None:
                on_progress(number, len(studies))
            _send_study(outbox, study, address, server, delivery, patience)
        if on_progress is not None:
            on_progress(len(studies), len(studies))
    return delivery


def _send_study(
    outbox: Outbox, study: OutgoingStudy, address: Address, server: Server, delivery: Delivery, patience: _Patience
) -> None:
    receipt = outbox.receipt(address, study)
    delivery.before += len(study.instances) - len(receipt.unsent(study))
    # A file that the disk has changed would arrive as another image.
    if receipt.unsent(study) and (damage := outbox.damage(study)):
        delivery.problems[study.study] = damage
        return
    attempted: set[str] = set()
    while waiting := [instance for instance in receipt.unsent(study) if instance.sop_instance not in attempted]:
        try:
            for sop_instance, problem in server.store(waiting):
                receipt.note(sop_instance, problem)
                attempted.add(sop_instance)
                delivery.sent += not problem
                patience.renew()
            break
        except UnreachableError as error:
            if patience.wait():
                continue
            # A server that answers may fail on this study alone; a second study decides.
            delivery.problems[study.study] = error.failed
            if not error.answered or patience.exhausted(study.study):
                raise _resumable(error, outbox, address) from None
            return
        finally:
            _write(outbox, address, study, receipt)
    if receipt.refused:
        first = next(iter(receipt.refused.values()))
        delivery.problems[study.study] = f"{len(receipt.refused)} of {len(study.instances)} instances refused: {first}"


def _write(outbox: Outbox, address: Address, study: OutgoingStudy, receipt: Receipt) -> None:
    if receipt.stored or receipt.refused:
        outbox.write_receipt(address, study, receipt)


def _resumable(error: ServerError, outbox: Outbox, address: Address) -> UnreachableError:
    return UnreachableError(
        error.failed,
        expected=error.expected,
        fix=f"{error.fix}, then medcodi dicom send {outbox.root} --to {address.text}: everything is in the outbox",
    )


class _Patience:
    """How long a server that is away is tried again: the waits grow, and an answer ends them."""

    def __init__(self, retry_s: float) -> None:
        self.retry_s = retry_s
        self.failed: set[str] = set()  # studies given up since the last answer
        self.renew()

    def renew(self) -> None:
        """The server has answered."""
        self.until: float | None = None
        self.pause = _FIRST_WAIT_S
        self.failed.clear()

    def wait(self) -> bool:
        """Wait before another try; False: the time is over."""
        now = time.monotonic()
        self.until = now + self.retry_s if self.until is None else self.until
        if now >= self.until:
            return False
        time.sleep(min(self.pause, max(0.0, self.until - now)))
        self.pause = min(2 * self.pause, _LONGEST_WAIT_S)
        return True

    def exhausted(self, study: str) -> bool:
        """Whether this is the second study that was given up."""
        self.failed.add(study)
        return len(self.failed) > 1
