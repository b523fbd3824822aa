"""Sending results to a hospital's DICOM server: into an outbox first, then by a thread of its own, so that a server that is away stops nobody's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medcodi.data.dicom.attributes import check_pydicom
from medcodi.data.dicom.writing import study_objects
from medcodi.errors import PromptError
from medcodi.pacs.outbox import Outbox
from medcodi.pacs.sending import send
from medcodi.pacs.servers import ServerError, read_address
from medcodi.pacs.tls import Tls
from medcodi.web.jobs import Job, JobQueue, OnStep

if TYPE_CHECKING:
    from medcodi.generation.result import Generation

RETRY_S = 10.0  # for which a server that is away is tried again, while a person waits; the outbox keeps the study


class Sender:
    """One DICOM server, the outbox on the way to it, and the thread that sends."""

    def __init__(self, url: str, outbox: Path, *, max_waiting: int, tls: Tls = Tls(), retry_s: float = RETRY_S) -> None:
        """Check address, packages, certificates and outbox; nothing is connected.

        Raises:
            ServerError: If the address is invalid, or a certificate cannot be used.
            DataError: If the folder holds something else than an outbox.
            MissingExtraError: If the extra ``dicom`` is not installed.
        """
        check_pydicom()
        self.address, self.outbox = read_address(url), Outbox(outbox)
        self.tls, self.retry_s = tls, retry_s
        tls.check(self.address)
        if outbox.exists():
            self.outbox.open()
        self.queue = JobQueue(max_waiting=max_waiting)

    def submit(self, owner: str, generation: Generation) -> Job:
        """Queue the samples of a result; the job's result is a sentence. It is sent even if its owner leaves."""
        return self.queue.submit(owner, lambda on_step: self._send(generation, on_step))

    def _send(self, generation: Generation, on_step: OnStep) -> str:
        # Each sample is one study, written whole before anything is sent.
        studies: list[str] = []
        for sample in generation.samples:
            objects = study_objects(sample.contents, {**generation.provenance, "seeds": [sample.seed]})
            if objects:
                self.outbox.add(objects)
                studies.append(str(next(iter(objects.values())).StudyInstanceUID))
        if not studies:
            raise PromptError(
                "a record alone is no DICOM object",
                expected="a film or a report, whose attributes hold it",
                fix="generate one with it",
            )
        # What earlier sendings left goes too; this person is answered about these studies alone.
        address = self.address.text
        delivery = send(self.outbox, address, tls=self.tls, retry_s=self.retry_s, on_progress=on_step)
        problems = [delivery.problems[study] for study in studies if study in delivery.problems]
        if problems:
            raise ServerError(
                f"{len(problems)} of {len(studies)} studies have not arrived whole at {address}: {problems[0]}",
                expected="a server that takes every object",
                fix="ask who runs that server; the outbox keeps them, and the next sending tries them again",
            )
        return f"Arrived at {address}: {len(studies)} {'study' if len(studies) == 1 else 'studies'}"
