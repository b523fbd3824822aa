"""A server behind the DICOM protocol itself: C-STORE over an association, by pynetdicom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from medcodi.pacs.servers import Address, Instance, ServerError, UnreachableError, is_busy, is_stored, refusal

if TYPE_CHECKING:
    from pynetdicom.association import Association

_CONNECT_S, _ANSWER_S = 10.0, 60.0  # for a connection, and for the answer to a message
_IMPLICIT_LITTLE_ENDIAN, _EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


class AssociationServer:
    """One application entity that takes C-STORE. It may know us by title and host only, and have to be given both."""

    def __init__(self, address: Address) -> None:
        self.address = address

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
        association = entity.associate(self.address.host, self.address.port, ae_title=self.address.called)
        if association.is_established:
            return association
        # A rejection is an answer, and would be the same again; everything else may be a network or a server that is away.
        if association.is_rejected:
            raise ServerError(
                f"{self.address.text} rejects the association of {self.address.calling} with {self.address.called}",
                expected="two titles (AET) that the server knows",
                fix=f"have {self.address.calling} and this host registered there, or give dicom://TITLE@HOST:PORT/TITLE",
            )
        raise self._unreachable("cannot be reached", fix="check host, port and network, and that it runs")

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
