"""The service behind the page: facts about its model, the queue with the worker, the sessions, and the pages to look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi.config import from_dict
from medcodi.data.domain import PHANTOM, Domain
from medcodi.errors import DataError
from medcodi.model.generation_config import PRESETS
from medcodi.model.index import read_index
from medcodi.pages.page import is_our_page
from medcodi.record import RecordConfig
from medcodi.web.config import ServeConfig
from medcodi.web.jobs import Job, JobQueue, OnStep
from medcodi.web.requests import EditRequest, GenerateRequest
from medcodi.web.sessions import Session, Sessions

if TYPE_CHECKING:
    from medcodi.web.sending import Sender
    from medcodi.web.worker import Worker

MAX_PAGES = 500  # that are listed
IMAGE_FORMATS = {"png": "PNG", "png16": "PNG, 16 bits", "dicom": "DICOM"}  # of downloads, as the page calls them


class ModelFacts:
    """A model as its index describes it: known at once, without a network."""

    def __init__(self, source: str | None) -> None:
        """Read the index.

        Raises:
            CheckpointError: If there is no model there.
        """
        folder, index = read_index("demo" if source is None else source)
        config = index["config"]
        self.folder = folder
        self.name, self.image_size = str(config["name"]), int(config["image_size"])
        self.modalities: tuple[str, ...] = tuple(config["modalities"])
        fields = (config.get("record") or {}).get("fields")
        self.record = from_dict(RecordConfig, {"fields": fields}, source="the model's index") if fields else None
        self.presets = [name for name in PRESETS if config.get("student") or not PRESETS[name].get("student")]
        self.domain = Domain.of(index.get("provenance", {}))

    @property
    def quickest(self) -> str:
        """The preset with the fewest steps."""
        return "interactive" if "interactive" in self.presets else "faster"

    @property
    def knows(self) -> str:
        """The studies that the model was trained on, in a sentence."""
        if self.domain is None:
            return "Its files do not say what it was trained on."
        studies = (
            "computed phantoms alone: it knows no real patient"
            if self.domain.origin == PHANTOM
            else f"{self.domain.origin} studies"
        )
        found = ", ".join(label for label in self.domain.findings if label != "No Finding")
        return f"Trained on {studies}." + (f" Findings that it has seen: {found}." if found else "")


class FolderOfPages:
    """The pages in a folder that MedCoDi wrote: of runs, evaluations, audits, data sets. Read only."""

    def __init__(self, root: Path | None) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Their names relative to the folder, at most ``MAX_PAGES``."""
        if self.root is None:
            return []
        names = (path.relative_to(self.root).as_posix() for path in sorted(self.root.rglob("*.html")))
        return list(islice((name for name in names if self.file(name) is not None), MAX_PAGES))

    def file(self, name: str) -> Path | None:
        """The file of a page; None where there is none, it leaves the folder, or is none of ours."""
        if self.root is None or "\0" in name:
            return None
        path = (self.root / name).resolve()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        inside = path.is_relative_to(self.root.resolve()) and path.suffix == ".html" and path.is_file()
        return path if inside and not hidden and is_our_page(path) else None


class Service:
    """Everything that open pages share."""

    def __init__(self, config: ServeConfig) -> None:
        self.config, self.facts = config, ModelFacts(config.model)
        self.sender = self._make_sender()
        self.pages, self.sessions = FolderOfPages(config.look), Sessions(config.limits)
        self.queue = JobQueue(max_waiting=config.limits.max_waiting)
        # The networks' libraries and the model are loaded by the worker, while the page is there already.
        self.warm = self.queue.submit("the service", lambda on_step: self.worker.warm_up(on_step))

    @cached_property
    def worker(self) -> Worker:
        """The model and what reads its films; touched by the worker thread alone."""
        from medcodi.web.worker import Worker

        return Worker(self.config)

    def generate(self, session: Session, request: GenerateRequest) -> Job:
        """Queue a request, checked; its result is an :class:`~medcodi.web.requests.Outcome`."""
        request.check(self.config.limits)
        return self._submit(session, lambda on_step: self.worker.generate(session, request, on_step))

    def edit(self, session: Session, request: EditRequest) -> Job:
        """Queue an edit, checked; its result is an :class:`~medcodi.web.requests.Outcome`."""
        request.check(self.config.limits)
        return self._submit(session, lambda on_step: self.worker.edit(session, request, on_step))

    def send(self, session: Session, key: str) -> Job:
        """Queue the sending of a result to the DICOM server of the config; its result is a sentence."""
        generation = session.results.get(key)
        if generation is None or self.sender is None:
            raise DataError("this result is no longer there", fix="generate it again, with the same seed")
        return self.sender.submit(session.id, generation)

    def _make_sender(self) -> Sender | None:
        if self.config.dicom_store is None:
            return None
        from medcodi.pacs.tls import Tls
        from medcodi.web.sending import Sender

        tls = Tls(ca=self.config.dicom_ca, certificate=self.config.dicom_cert)
        most = self.config.limits.max_waiting
        return Sender(self.config.dicom_store, self.config.outbox, max_waiting=most, tls=tls)

    def _submit(self, session: Session, work: Callable[[OnStep], Any]) -> Job:
        return self.queue.submit(session.id, work)

    def leave(self, session: Session) -> None:
        """A page was closed: its jobs end, its files go; what it sends is sent."""
        self.queue.cancel_of(session.id)
        self.sessions.close(session)

    def close(self) -> None:
        """End the worker and the sender, and delete everything but the outbox."""
        self.queue.close()
        if self.sender is not None:
            self.sender.queue.close()
        self.sessions.close_all()
