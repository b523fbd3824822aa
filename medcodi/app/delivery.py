"""Generated samples as DICOM studies: through an outbox to a server, and what is printed of it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from medcodi.app.terminal import count_progress, counting_bar, err, out
from medcodi.errors import PromptError
from medcodi.modality import modality
from medcodi.pacs.servers import RETRY_S

if TYPE_CHECKING:
    from medcodi.pacs.tls import Tls
    from medcodi.study import Content


@dataclass(frozen=True, kw_only=True)
class DicomDelivery:
    """The outbox, server and certificates of ``--outbox``, ``--dicom-store`` and the options beside them."""

    outbox: Path
    to: str | None  # address of the server; None: written, not sent
    pdf: bool  # reports as encapsulated PDF too
    tls: Tls

    def add(self, samples: Iterable[tuple[Mapping[str, Content], Mapping[str, Any]]]) -> set[str]:
        """Write samples, given as (contents, provenance with one seed), into the outbox; returns their Study Instance UIDs."""
        from medcodi.data.dicom.writing import study_objects
        from medcodi.pacs.outbox import Outbox

        outbox, studies, num_without = Outbox(self.outbox), set(), 0
        outbox.open()
        for contents, provenance in samples:
            if objects := study_objects(contents, provenance, pdf=self.pdf):
                outbox.add(objects)
                studies.add(str(next(iter(objects.values())).StudyInstanceUID))
            else:
                num_without += 1
        if num_without:
            err.print(f"{num_without:,} samples have neither an image nor a report: they are no DICOM study")
        return studies

    def send(self) -> None:
        """Send what the server has not confirmed, if there is a server."""
        if self.to is not None:
            deliver(self.outbox, self.to, RETRY_S, self.tls)

    def ledger(self, studies: Collection[str]) -> dict[str, Any]:
        """Numbers of these studies by what the server has of them, JSON-ready."""
        from medcodi.pacs.outbox import Outbox
        from medcodi.pacs.servers import read_address

        where = {"to": self.to, "outbox": str(self.outbox)}
        if self.to is None:
            return {**where, "arrived": 0, "refused": 0, "waiting": len(studies)}
        return {**where, **vars(Outbox(self.outbox).ledger(read_address(self.to), studies))}


def read_delivery(
    to: str | None,
    outbox: Path | None,
    targets: Sequence[str] | None,
    *,
    pdf: bool,
    ca: Path | None,
    certificate: Path | None,
    folder_format: str = "dicom",
) -> DicomDelivery | None:
    """Check the options of DICOM studies before anything is generated; None without any.

    Refused are an invalid address, certificates that cannot be used, a folder that is no outbox, a missing package, and targets
    that are no DICOM object; ``folder_format`` is that of the files that are to be sent, and must hold 16 bits as DICOM does.
    """
    if to is None and outbox is None and pdf:
        raise PromptError(
            "--dicom-pdf without an outbox",
            expected="DICOM studies that it is part of",
            fix="add --outbox or --dicom-store",
        )
    if to is None and (ca or certificate):
        raise PromptError(
            "certificates without --dicom-store", expected="a server they are for", fix="add --dicom-store URL"
        )
    if to is None and outbox is None:
        return None
    if folder_format != "dicom":
        raise PromptError(
            f"--format is {folder_format}, and DICOM studies are to be sent",
            expected="files that hold the 16 bits that are sent",
            fix="add --format dicom, with a new --out",
        )
    from medcodi.data.dicom.attributes import check_pydicom
    from medcodi.pacs.outbox import Outbox
    from medcodi.pacs.servers import read_address
    from medcodi.pacs.tls import Tls

    # The server is not called: it may come back while we generate.
    check_pydicom()
    delivery = DicomDelivery(outbox=outbox or Path("outbox"), to=to, pdf=pdf, tls=Tls(ca=ca, certificate=certificate))
    if to is not None:
        delivery.tls.check(read_address(to))
    if delivery.outbox.exists():
        Outbox(delivery.outbox).open()
    if targets and all(modality(name).kind == "table" for name in targets):
        raise PromptError(
            f"{', '.join(targets)} alone is no DICOM object",
            expected="an image or a report, whose attributes hold it",
            fix="add --target frontal or --target report",
        )
    return delivery


def send_synthesis(delivery: DicomDelivery, folder: Path) -> None:
    """Send the studies that a synthesis lists, and write their numbers into its folder; a second time sends the rest."""
    from medcodi.errors import DataError
    from medcodi.generation.bulk.folder import DELIVERY, SYNTHESIS, finished_studies
    from medcodi.storage import atomic
    from medcodi.storage.locks import locked

    # Two ranks may end at the same moment: the second one finds nothing to send.
    with locked(folder / f".{DELIVERY}.lock", wait=True):
        studies = delivery.add(finished_studies(folder))
        try:
            delivery.send()
        finally:  # also where the server has gone away
            atomic.write_json(folder / DELIVERY, delivery.ledger(studies), error=DataError, then=SYNTHESIS.resume)


def deliver(outbox: Path, to: str, retry_seconds: float, tls: Tls) -> None:
    """Send an outbox, and print what has arrived; refusals of the server end in a ServerError."""
    from medcodi.pacs.outbox import Outbox
    from medcodi.pacs.sending import send as run
    from medcodi.pacs.servers import ServerError, UnreachableError, read_address

    def print_ledger() -> None:
        ledger = Outbox(outbox).ledger(read_address(to))
        err.print(f"{outbox}: {ledger.arrived:,} studies arrived, {ledger.waiting:,} wait, {ledger.refused:,} refused")

    # Send, say what arrived, and refuse where something has not.
    try:
        with counting_bar(err) as bar:
            delivery = run(
                Outbox(outbox), to, tls=tls, retry_s=retry_seconds, on_progress=count_progress(bar, "sending")
            )
    except UnreachableError:
        print_ledger()
        raise
    print_ledger()
    before = f"; {delivery.before:,} had arrived before" if delivery.before else ""
    out.print(f"{delivery.sent:,} instances of {delivery.studies:,} studies arrived at {to}{before}", markup=False)
    if problems := delivery.problems:
        for study, problem in list(problems.items())[:10]:
            err.print(Text.assemble(("Not sent:", "yellow"), f" study {study}: {problem}"))
        raise ServerError(
            f"{len(problems):,} of {delivery.studies:,} studies have not arrived whole",
            expected="a server that takes every object",
            fix=f"have it accept them, or repair it; medcodi dicom send {shlex.quote(str(outbox))} --to {to}{tls.options} tries them again",
        )
