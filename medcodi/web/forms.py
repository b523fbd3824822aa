"""Forms of the page: the contents of a study (films, report, record), how to sample, and the bar of a running request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nicegui import ui

from medcodi.errors import MedCoDiError
from medcodi.modality import MODALITIES, Kind
from medcodi.model.generation_config import ORDERS
from medcodi.web.elements import Drop, Text
from medcodi.web.jobs import Job, JobQueue, public_message
from medcodi.web.requests import Settings
from medcodi.web.service import ModelFacts, Service
from medcodi.web.sessions import Session

if TYPE_CHECKING:
    from medcodi.web.sending import Sender

POLL_S = 0.1  # between looks at a job
MAX_TYPED = 100_000  # characters of a report that the browser sends; the model says how many words it reads


class StudyForm:
    """Inputs for the contents of a study, one for each modality of the model: a drop for films, lines for texts, fields for records."""

    def __init__(
        self, service: Service, session: Session, changed: Callable[[], Any], *, place: str, kinds: tuple[Kind, ...]
    ) -> None:
        """Lay the inputs out.

        Args:
            service: Its model's modalities have inputs.
            session: Takes the films.
            changed: Called when a content comes or goes.
            place: Part of the page, which has its own films: ``generate`` or ``edit``.
            kinds: Kinds of modalities that have inputs.
        """
        self._session, self._place, self._changed = session, place, changed
        self._films: dict[str, Drop] = {}
        self._texts: dict[str, Any] = {}
        self._fields: dict[str, dict[str, Any]] = {}  # record -> field -> input
        self._weights: dict[str, Any] = {}
        limit, facts = service.config.limits.max_upload_bytes, service.facts
        for name in (name for name in facts.modalities if MODALITIES[name].kind in kinds):
            title, kind = MODALITIES[name].title, MODALITIES[name].kind
            with ui.element("div").classes("content-of-study"):
                if kind == "image":
                    url = f"/uploads/{session.id}/{self._slot(name)}"
                    self._films[name] = Drop(
                        title, url, limit, taken=changed, removed=lambda name=name: self._drop(name)
                    )
                elif kind == "text":
                    text = ui.textarea(title, on_change=changed).props("outlined dense autogrow debounce=150")
                    self._texts[name] = text.props(f"maxlength={MAX_TYPED}").classes("wide")
                elif facts.record is not None:
                    self._fields[name] = self._record(title, facts, changed)

    def _record(self, title: str, facts: ModelFacts, changed: Callable[[], Any]) -> dict[str, Any]:
        """A number or a choice for each field."""
        assert facts.record is not None
        inputs = {}
        with ui.element("details").classes("wide"):
            Text("summary", title)
            with ui.element("div").classes("fields"):
                for name, field in facts.record.fields.items():
                    label = name.replace("_", " ") + (f" ({field.unit})" if field.unit else "")
                    if field.is_numeric:
                        inputs[name] = ui.number(label, min=field.low, max=field.high, on_change=changed)
                    else:
                        options = {"": "not given", **{value: value for value in field.values}}
                        inputs[name] = ui.select(options, label=label, value="", on_change=changed)
                    inputs[name].props("outlined dense")
        return inputs

    def _slot(self, name: str) -> str:
        return f"{self._place}.{name}"

    def _drop(self, name: str) -> None:
        self._session.drop(self._slot(name))
        self._changed()

    def contents(self) -> dict[str, Any]:
        """The contents that are given: modality -> path of a film, text, or fields of a record."""
        given: dict[str, Any] = {}
        for name in (*self._films, *self._texts, *self._fields):
            if name in self._films:
                given[name] = self._session.uploads.get(self._slot(name))
            elif name in self._texts:
                given[name] = (self._texts[name].value or "").strip()
            else:
                values = {field: each.value for field, each in self._fields[name].items()}
                given[name] = {field: value for field, value in values.items() if value not in (None, "")}
        return {name: value for name, value in given.items() if value}

    def fill(self, contents: dict[str, Any]) -> None:
        """Take films and texts of a result, instead of what is there."""
        for name, drop in self._films.items():
            self._session.drop(self._slot(name))
            film = contents.get(name)
            if film is not None and film.is_file():  # an upload may have been removed since
                self._session.adopt(self._slot(name), film)
            drop.show("from Generate" if self._slot(name) in self._session.uploads else "")
        for name, text in self._texts.items():
            text.value = contents.get(name, "")

    def add_weights(self) -> None:
        """Lay out an input for the weight of each content, here."""
        for name in (*self._films, *self._texts, *self._fields):
            weight = ui.number(f"Weight of the {MODALITIES[name].title}", value=1, min=0, max=10, step=0.25)
            self._weights[name] = weight.props("outlined dense").classes("wide")

    def weights(self) -> dict[str, float]:
        """Weights of the contents that are given, where they are not 1."""
        given = self.contents()
        chosen = {name: each.value for name, each in self._weights.items() if name in given}
        return {name: float(value) for name, value in chosen.items() if value is not None and value != 1}


class SettingsForm:
    """Inputs for how to sample."""

    def __init__(self, facts: ModelFacts, *, ordered: bool) -> None:
        """Lay the inputs out; ``ordered``: several targets have an order."""
        self._preset = ui.select(facts.presets, label="Preset", value=facts.quickest)
        self._steps = ui.number("Steps (empty: the preset's)", min=1, step=1, precision=0)
        self._guidance = ui.number("Guidance (empty: the model's)", min=0, step=0.5)
        self._seed = ui.number("Seed", value=0, min=0, step=1, precision=0)
        orders = {"": "the model's own", **{name: f"{name}: {meaning}" for name, meaning in ORDERS.items()}}
        self._order = ui.select(orders, label="Order of several targets", value="") if ordered else None
        for each in (self._preset, self._steps, self._guidance, self._seed, self._order):
            if each is not None:
                each.props("outlined dense").classes("wide")

    def values(self) -> Settings:
        """The chosen values."""
        steps, guidance, order = self._steps.value, self._guidance.value, self._order.value if self._order else ""
        return Settings(
            preset=self._preset.value,
            num_inference_steps=None if steps is None else int(steps),
            guidance_scale=None if guidance is None else float(guidance),
            order=order or None,
            seed=int(self._seed.value or 0),
        )


class RunBar:
    """A button that starts a job; its place in the queue, its progress, a button that cancels, and its refusal."""

    look = "primary"  # class of the button
    can_cancel = True

    def __init__(
        self, service: Service, queue: JobQueue, label: str, submit: Callable[[], Job], done: Callable[[Any], Any]
    ) -> None:
        """Lay the bar out.

        Args:
            service: The service.
            queue: Runs the job.
            label: Of the button.
            submit: Puts the job into the queue; its refusal is shown.
            done: Called with the result.
        """
        self._service, self._queue, self._submit, self._done = service, queue, submit, done
        self._job: Job | None = None
        with ui.element("div").classes("run"):
            self._button = ui.button(label, on_click=self.start, color=None).props("no-caps unelevated")
            self._button.classes(self.look)
            self._cancel = ui.button("Cancel", on_click=self.cancel, color=None).props("no-caps unelevated")
            self._progress = ui.element("progress").props('max=1 value=0 aria-label="Progress"')
            self._status = Text("p", classes="status").props("role=status")
        self._refusal = Text("p", classes="refusal").props("role=alert")
        self._timer = ui.timer(POLL_S, self._look, active=False)
        self._show(running=False)

    def start(self) -> None:
        """Put the job into the queue."""
        if self._job is not None:
            return
        self._refusal.text = self._status.text = ""
        try:
            self._job = self._submit()
        except MedCoDiError as error:
            self._refusal.text = public_message(error)
            return
        self._show(running=True)
        self._look()
        self._timer.activate()

    def cancel(self) -> None:
        """End the job, at its next step if it runs."""
        if self._job is not None:
            self._queue.cancel(self._job)
            self._status.text = "Cancelling …"

    def _show(self, *, running: bool) -> None:
        self._button.set_enabled(not running)
        self._cancel.set_visibility(running and self.can_cancel)
        self._progress.set_visibility(running)

    def _look(self) -> None:
        """Show how far the job is; at its end, its result or refusal."""
        job = self._job
        if job is None:
            return
        if not job.ended:
            share = job.done / job.total if job.total else 0
            if self._progress.props["value"] != str(share):
                self._progress.props["value"] = str(share)
            self._status.text = self._words(job)
            return
        self._timer.deactivate()
        self._job = None
        self._show(running=False)
        self._status.text = {"done": f"Done in {job.seconds:.1f} s", "cancelled": "Cancelled"}.get(job.state, "")
        self._refusal.text = job.message
        if job.state == "done":
            self._done(job.result)

    def _words(self, job: Job) -> str:
        if job.state == "waiting":
            if self._queue is self._service.queue and not self._service.warm.ended:
                return "The model is being loaded …"
            place = self._queue.place(job)
            return f"Waiting: {place} before you" if place else "Starting …"
        return self._progress_words(job)

    def _progress_words(self, job: Job) -> str:
        """How far a running job is."""
        if not job.total:
            return "Reading the prompts …"
        return f"Denoising: step {job.done} of {job.total}" if job.done < job.total else "Decoding …"


class SendBar(RunBar):
    """A button that sends the result that is shown to the DICOM server of the service. What is in the outbox is not cancelled."""

    look, can_cancel = "", False

    def __init__(self, service: Service, session: Session, sender: Sender) -> None:
        """Lay it out, unseen until there is a result."""
        self._key = ""
        with ui.element("div").classes("sending") as self._all:
            label = f"Send to {sender.address.host}"
            super().__init__(service, sender.queue, label, lambda: service.send(session, self._key), self._say)
        self._all.set_visibility(False)

    def offer(self, key: str) -> None:
        """Offer to send this result."""
        self._key = key
        self._all.set_visibility(True)
        if self._job is None:
            self._refusal.text = self._status.text = ""

    def _say(self, sentence: str) -> None:
        self._status.text = sentence

    def _progress_words(self, job: Job) -> str:
        return f"Sending: study {min(job.done + 1, job.total)} of {job.total} …" if job.total else "Writing …"
