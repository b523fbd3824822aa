"""Sending an outbox: study after study, tried again while the server is away, until every instance is confirmed once."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medcodi.pacs.outbox import Outbox, OutgoingStudy
from medcodi.pacs.servers import (
    RETRY_S,
    Address,
    Instance,
    Server,
    ServerError,
    UnreachableError,
    is_busy,
    is_stored,
    read_address,
    refusal,
)
from medcodi.pacs.tls import Tls, probe

if TYPE_CHECKING:
    from pynetdicom.association import Association

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


@dataclass(kw_only=True)
class Delivery:
    """Outcome of one sending."""

    studies: int = 0  # in the outbox
    sent: int = 0  # instances that the server confirmed now
    before: int = 0  # instances that it had confirmed before
    problems: dict[str, str] = field(default_factory=dict)  # Study Instance UID -> why some of it stays in the outbox


def send(
    outbox: Outbox,
    to: str,
    *,
    tls: Tls = Tls(),
    retry_s: float = RETRY_S,
    on_progress: Callable[[int, int], None] | None = None,
) -> Delivery:
    """Send what a server has not confirmed yet.

    An instance is sent again only where its confirmation was lost; servers know it by its SOP Instance UID. Studies that the server
    refuses stay in the outbox, and the others are sent.

    Args:
        outbox: The outbox.
        to: Address of the server: ``https://host/dicom-web``, ``dicom://host:port/AET``, or ``dicoms://`` with TLS.
        tls: Certificates.
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
    studies = outbox.studies()
    sending = _Sending(
        outbox, address, connect(address, tls), _Patience(retry_s), Delivery(studies=len(studies)), tls.options
    )
    with outbox.sending(address):
        # An instance may be in several studies of the outbox: a sample, and the same sample with a PDF.
        for study in studies:
            sending.confirmed |= outbox.receipt(address, study).stored
        for number, study in enumerate(studies):
            if on_progress is not None:
                on_progress(number, len(studies))
            sending.send(study)
        if on_progress is not None:
            on_progress(len(studies), len(studies))
    return sending.delivery


@dataclass
class _Sending:
    """One sending: what it needs, and what has come of it so far."""

    outbox: Outbox
    address: Address
    server: Server
    patience: _Patience
    delivery: Delivery
    options: str  # of the command that resumes, beside the address
    confirmed: dict[str, str] = field(default_factory=dict)  # SOP instance UID -> when the server confirmed it

    def send(self, study: OutgoingStudy) -> None:
        """Send what is missing of one study; problems are noted, a server that stays away is raised."""
        receipt = self.outbox.receipt(self.address, study)
        receipt.take_over(self.confirmed, study)
        unsent = receipt.unsent(study)
        self.delivery.before += len(study.instances) - len(unsent)
        # A file that the disk has changed would arrive as another image.
        if unsent and (damage := self.outbox.damage(study)):
            self.delivery.problems[study.study] = f"{damage}; generate it again: the same request and seed replace it"
            return
        # Each round sends what has no answer yet; a lost connection begins another round.
        while unsent:
            try:
                for sop_instance, problem in self.server.store(unsent):
                    unsent = [instance for instance in unsent if instance.sop_instance != sop_instance]
                    receipt.note(sop_instance, problem)
                    self.delivery.sent += not problem
                    self.patience.renew()
                break
            except UnreachableError as error:
                if not self.patience.wait():
                    self._give_up(study, error)
                    return
            finally:
                if receipt.stored or receipt.refused:
                    self.outbox.write_receipt(self.address, study, receipt)
        self.confirmed |= receipt.stored
        if receipt.refused:
            first, number = next(iter(receipt.refused.values())), len(receipt.refused)
            self.delivery.problems[study.study] = f"{number} of {len(study.instances)} instances refused: {first}"

    def _give_up(self, study: OutgoingStudy, error: UnreachableError) -> None:
        """Note the study; raise where the server is away, or answers but fails on a second study in a row."""
        self.delivery.problems[study.study] = error.failed
        if not error.answered or self.patience.exhausted(study.study):
            resume = f"medcodi dicom send {shlex.quote(str(self.outbox.root))} --to {self.address.text}{self.options}"
            raise UnreachableError(
                error.failed,
                expected=error.expected,
                fix=f"{error.fix}, then {resume}: everything is in the outbox",
            ) from None


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


def connect(address: Address, tls: Tls = Tls()) -> Server:
    """The client for an address; the server is called when it is used."""
    if address.is_association:
        return AssociationServer(address, tls)
    from medcodi.pacs.dicomweb import DicomWebServer

    return DicomWebServer(address, tls)


# ---- a server behind the DICOM protocol itself: C-STORE over an association, by pynetdicom ---------------------------
_CONNECT_S, _ANSWER_S = 10.0, 60.0  # for a connection, and for the answer to a message
_IMPLICIT_LITTLE_ENDIAN, _EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


class AssociationServer:
    """One application entity that takes C-STORE. It may know us by title and host only, and have to be given both."""

    def __init__(self, address: Address, tls: Tls = Tls()) -> None:
        tls.check(address)
        self.address = address
        self._context = tls.context() if address.encrypted else None

    def store(self, instances: Sequence[Instance]) -> Iterator[tuple[str, str]]:
        """Store the instances of one study over one association (PS3.4 B)."""
        association = self._associated(instances)
        try:
            accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
            for instance in instances:
                # A kind of object that the server did not accept in the negotiation is refused without being sent.
                if instance.sop_class not in accepted:
                    yield instance.sop_instance, refusal(0x0122)
                    continue
                yield instance.sop_instance, self._stored(association, instance)
        finally:
            if association.is_established:
                association.release()

    def _associated(self, instances: Sequence[Instance]) -> Association:
        from pynetdicom import AE

        # Propose every kind of object, uncompressed; the server accepts or refuses each kind.
        entity = AE(ae_title=self.address.calling)
        entity.connection_timeout = _CONNECT_S
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _ANSWER_S
        for sop_class in sorted({instance.sop_class for instance in instances}):
            entity.add_requested_context(sop_class, [_EXPLICIT_LITTLE_ENDIAN, _IMPLICIT_LITTLE_ENDIAN])
        assert self.address.port is not None
        certificates = None if self._context is None else (self._context, self.address.host)
        association = entity.associate(
            self.address.host, self.address.port, ae_title=self.address.called, tls_args=certificates
        )
        if association.is_established:
            return association
        # A rejection is an answer, and would be the same again; everything else may be a network or a server that is away.
        if association.is_rejected:
            raise ServerError(
                f"{self.address.text} rejects the association of {self.address.calling} with {self.address.called}",
                expected="two titles (AET) that the server knows",
                fix=f"have {self.address.calling} and this host registered there, or give dicom://TITLE@HOST:PORT/TITLE",
            )
        fix = "check host, port and network, and that it runs"
        if self._context is not None:
            probe(self.address, self._context)
        else:  # a port with TLS hangs up without a word
            fix += " and wants no TLS (then dicoms://)"
        raise self._unreachable("cannot be reached", fix=fix)

    def _stored(self, association: Association, instance: Instance) -> str:
        """Send one instance: "" or why it was refused."""
        import pydicom

        try:
            answer = association.send_c_store(pydicom.dcmread(instance.path))
        except RuntimeError:  # pynetdicom's: the association was lost before
            answer = None
        if answer is None or "Status" not in answer:
            raise self._unreachable("lost the association", fix="check the network, and that it runs")
        # Out of resources is temporary; every other failure is of this instance.
        status = int(answer.Status)
        if is_busy(status):
            error = self._unreachable(f"cannot store now: {refusal(status)}", fix="check its disk and log")
            error.answered = True
            raise error
        return "" if is_stored(status) else refusal(status)

    def _unreachable(self, why: str, fix: str) -> UnreachableError:
        return UnreachableError(f"{self.address.text} {why}", expected="a server that takes C-STORE", fix=fix)
