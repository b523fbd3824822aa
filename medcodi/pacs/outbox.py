"""The outbox: studies on their way to a server, each written whole before it is sent, with receipts of what has arrived."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi.data.dicom.reports import references
from medcodi.data.dicom.writing import save_object
from medcodi.errors import DataError
from medcodi.pacs.servers import Address, Instance
from medcodi.storage import atomic
from medcodi.storage.checked_json import foreign, parse_json
from medcodi.storage.job_folder import JobFolder, JobKind, file_row
from medcodi.storage.locks import LockedError, locked
from medcodi.storage.names import plain_name

if TYPE_CHECKING:
    from pydicom import Dataset

OUTBOX = JobKind(
    name="an outbox",
    index_file="outbox.json",
    index_header={"format": "medcodi outbox 1"},
    record_file="{shard}/study.json",
    exclusive=False,  # studies are added while others are sent
    error=DataError,
    fix="choose another outbox",
    resume="run it again: what is in the outbox stays, and what has arrived is not sent again",
)


@dataclass(frozen=True, kw_only=True)
class OutgoingStudy:
    """A study in an outbox."""

    shard: str  # its name there
    study: str  # Study Instance UID
    instances: tuple[Instance, ...]  # in the order of sending: a report after the images that it refers to


@dataclass(frozen=True, kw_only=True)
class OutboxLedger:
    """Numbers of studies of an outbox by what one server has of them."""

    arrived: int = 0  # studies of which it has confirmed every instance
    refused: int = 0  # studies of which it has refused an instance
    waiting: int = 0  # studies that are still to be sent


class Outbox:
    """A folder of studies to be sent, any number of times, to any number of servers.

    ``outbox.json`` (whose folder it is), ``studies/<study>/`` (DICOM files and ``study.json``; it appears in one piece),
    ``receipts/<server>/<study>.json`` (what a server has confirmed, or refused).
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._job = JobFolder(self.root, OUTBOX, {})

    def open(self) -> None:
        """Make the folder, or check that it is an outbox.

        Raises:
            DataError: If it holds something else, or cannot be written.
        """
        with self._job.opened():
            pass

    def add(self, objects: Mapping[str, Dataset]) -> bool:
        """Write the DICOM objects of one study, whole or not at all; False: they are here already, undamaged.

        Args:
            objects: Name -> object, in the order in which they are to be sent.

        Raises:
            DataError: If they are of several studies, a report refers to images that are not among them, or the folder cannot be
                written.
        """
        # One study, and every image that its reports refer to.
        studies = {str(dataset.StudyInstanceUID) for dataset in objects.values()}
        if len(studies) != 1:
            raise DataError(f"objects of {len(studies)} studies", expected="those of one study")
        instances = {str(dataset.SOPInstanceUID) for dataset in objects.values()}
        for name, dataset in objects.items():
            if missing := references(dataset) - instances:
                raise DataError(
                    f"{name} refers to {len(missing)} images that are not there, such as {sorted(missing)[0]}",
                    expected="every image that a report refers to",
                    fix="add the images with the report",
                )
        # The same study with other objects, such as a PDF, is another shard.
        objects_hash = sha256(" ".join(sorted(instances)).encode()).hexdigest()[:8]
        shard = f"studies/{studies.pop()}-{objects_hash}"
        record = self._job.record(shard)
        if record is not None and not self._job.damage(shard, record):
            return False
        self.open()

        # The files and their hashes; the record comes last and vouches for them.
        def fill(folder: Path) -> dict[str, Any]:
            rows = {}
            for name, dataset in objects.items():
                path = folder / f"{name}.dcm"
                save_object(dataset, path)
                uids = {"sop_class": str(dataset.SOPClassUID), "sop_instance": str(dataset.SOPInstanceUID)}
                rows[name] = {"file": path.name, **file_row(path), **uids}
            return {"study": str(dataset.StudyInstanceUID), "files": rows}

        self._job.write(shard, fill, replace=True)  # a damaged one
        return True

    def studies(self) -> list[OutgoingStudy]:
        """Every whole study, by name.

        Raises:
            DataError: If the folder is no outbox.
        """
        if self._job.read_index() is None:
            raise DataError(
                f"{self.root} is no outbox",
                expected="a folder that generate --dicom-store or --outbox has written",
                fix="check the path",
            )
        shards = sorted(f"studies/{path.parent.name}" for path in self.root.glob("studies/*/study.json"))
        return [self._study(shard) for shard in shards]

    def _study(self, shard: str) -> OutgoingStudy:
        path = self._job.record_path(shard)
        with foreign(
            str(path), expected="a study as it was written", fix="move its folder away, and generate it again"
        ):
            record = parse_json(path.read_bytes(), str(path))
            instances = [
                Instance(
                    path=path.parent / plain_name(row["file"], str(path)),
                    sop_class=str(row["sop_class"]),
                    sop_instance=str(row["sop_instance"]),
                )
                for row in record["files"].values()
            ]
            return OutgoingStudy(shard=shard, study=str(record["study"]), instances=tuple(instances))

    def damage(self, study: OutgoingStudy) -> str:
        """The first problem with the files of a study, by their SHA-256; "": none."""
        record = self._job.record(study.shard)
        if record is None:
            return f"{self._job.record_path(study.shard).parent} is damaged: files are missing or cut short"
        return self._job.damage(study.shard, record)

    @contextmanager
    def sending(self, address: Address) -> Iterator[None]:
        """Hold the outbox for one process that sends to a server; studies may be added meanwhile.

        Raises:
            DataError: If another process sends there.
        """
        folder = self._receipt(address, "").parent
        with ExitStack() as stack:
            with atomic.refusing(folder, error=DataError, then=OUTBOX.resume):
                try:
                    stack.enter_context(locked(folder / ".lock"))
                except LockedError as holder:
                    raise DataError(
                        f"{self.root} is being sent to {address.text} by another process: {holder}",
                        expected="one process that sends to a server",
                        fix="wait for it",
                    ) from None
                # What killed processes left half written, of studies and of receipts.
                atomic.sweep_abandoned(self.root)
                atomic.sweep(folder)
            yield

    def receipt(self, address: Address, study: OutgoingStudy) -> Receipt:
        """Answers of a server so far to the instances of a study."""
        try:
            values = json.loads(self._receipt(address, study.shard).read_text(encoding="utf-8"))
            stored, refused = dict(values["stored"]), dict(values["refused"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            stored, refused = {}, {}  # none, or unreadable: sent again, which does no harm
        return Receipt(stored=stored, refused=refused)

    def ledger(self, address: Address, only: Collection[str] | None = None) -> OutboxLedger:
        """Count what a server has of all studies, or of those with these Study Instance UIDs.

        Raises:
            DataError: If the folder is no outbox.
        """
        # An instance may have been confirmed with another study of the outbox.
        receipts = [(study, self.receipt(address, study)) for study in self.studies()]
        confirmed = {instance for _, receipt in receipts for instance in receipt.stored}
        counts: Counter[str] = Counter()
        for study, receipt in receipts:
            if only is not None and study.study not in only:
                continue
            if all(instance.sop_instance in confirmed for instance in study.instances):
                counts["arrived"] += 1
            else:
                counts["refused" if receipt.refused else "waiting"] += 1
        return OutboxLedger(**counts)

    def write_receipt(self, address: Address, study: OutgoingStudy, receipt: Receipt) -> None:
        """Write down what a server has answered, flushed to the disk.

        Raises:
            DataError: If it cannot be written.
        """
        values = {"to": address.text, "study": study.study, "stored": receipt.stored, "refused": receipt.refused}
        self._job.write_json(self._receipt(address, study.shard), values)

    def _receipt(self, address: Address, shard: str) -> Path:
        return self.root / "receipts" / address.key / f"{Path(shard).name}.json"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Answers of a server to the instances of one study."""

    stored: dict[str, str]  # SOP instance UID -> when the server confirmed it
    refused: dict[str, str]  # SOP instance UID -> why it was refused; it stays in the outbox

    def note(self, sop_instance: str, problem: str) -> None:
        """Take down one answer."""
        self.refused.pop(sop_instance, None)
        if problem:
            self.refused[sop_instance] = problem
        else:
            self.stored[sop_instance] = datetime.now(UTC).isoformat(timespec="seconds")

    def take_over(self, confirmed: Mapping[str, str], study: OutgoingStudy) -> None:
        """Take what is confirmed of this study by the receipts of others."""
        for instance in study.instances:
            if instance.sop_instance in confirmed:
                self.stored.setdefault(instance.sop_instance, confirmed[instance.sop_instance])

    def unsent(self, study: OutgoingStudy) -> list[Instance]:
        """The instances that the server has not confirmed."""
        return [instance for instance in study.instances if instance.sop_instance not in self.stored]
