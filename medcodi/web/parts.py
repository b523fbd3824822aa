"""The three parts of the page: generate (prompts at the left, what is made of them at the right), edit, and look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote

from nicegui import ui

from medcodi.modality import MODALITIES
from medcodi.web.elements import Text, Viewer
from medcodi.web.forms import RunBar, SendBar, SettingsForm, StudyForm
from medcodi.web.jobs import Job
from medcodi.web.requests import EditRequest, GenerateRequest, Outcome
from medcodi.web.service import IMAGE_FORMATS, Service
from medcodi.web.sessions import Session


class Downloads:
    """Links to the files of a result, with its provenance."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._row = ui.element("div").classes("downloads")

    def show(self, key: str) -> None:
        """Offer the files of a result."""
        self._row.clear()
        formats = {name: title for name, title in IMAGE_FORMATS.items() if name != "dicom" or find_spec("pydicom")}
        with self._row:
            Text("span", "Download with provenance:")
            for name, title in {**formats, "json": "Provenance alone (JSON)"}.items():
                ui.link(title, f"/results/{self._session.id}/{key}/{name}").props("download")


class Notes:
    """Sentences to know of a result, a line each."""

    def __init__(self) -> None:
        self._list = ui.element("ul").classes("notes")

    def show(self, notes: list[str]) -> None:
        """Show these notes instead of the earlier ones."""
        self._list.clear()
        with self._list:
            for note in notes:
                Text("li", note[:1].upper() + note[1:] + ".")


class GeneratePage:
    """The part of the page that generates."""

    def __init__(self, service: Service, session: Session, edit: Callable[[dict[str, Any]], Any]) -> None:
        """Lay it out; ``edit`` takes the contents of a result over to the part that edits."""
        self._service, self._session, self._edit = service, session, edit
        self._outcome: Outcome | None = None
        with ui.element("div").classes("work"):
            with ui.element("section").classes("form").props('aria-label="Prompts and settings"'):
                Text("h2", "Given", "heading")
                kinds = ("image", "text", "table")
                self._study = StudyForm(service, session, self._refresh, place="generate", kinds=kinds)
                Text("h2", "To be generated", "heading")
                with ui.element("div").classes("targets"):
                    self._targets = {name: self._box(name) for name in service.facts.modalities}
                with ui.element("details").classes("wide"):
                    Text("summary", "Settings")
                    with ui.element("div").classes("fields"):
                        most = service.config.limits.max_samples
                        self._samples = ui.number("Samples", value=1, min=1, max=most, step=1, precision=0)
                        self._samples.props("outlined dense").classes("wide")
                        self._settings = SettingsForm(service.facts, ordered=True)
                        self._study.add_weights()
                self._run = RunBar(service, service.queue, "Generate", self._submit, self._show)
            with ui.element("section").classes("result").props('aria-label="Result"'):
                self._viewer = Viewer(
                    "Films and reports", "Give a report, a film or nothing at all, and press Generate."
                )
                self._notes = Notes()
                with ui.element("div").classes("actions"):
                    self._downloads = Downloads(session)
                    self._to_edit = ui.button("Edit this examination", on_click=self._take_to_edit, color=None)
                    self._to_edit.props("no-caps unelevated").set_visibility(False)
                self._send = SendBar(service, session, service.sender) if service.sender else None
        self._refresh()

    def _box(self, name: str) -> Any:
        return ui.checkbox(MODALITIES[name].title, value=MODALITIES[name].standard)

    def _refresh(self) -> None:
        """Tick no target that is given; at the start, everything else is one."""
        given = self._study.contents()
        for name, box in self._targets.items():
            if (name in given) == box.enabled:  # it has come or gone since
                box.set_enabled(name not in given)
                box.value = name not in given and MODALITIES[name].standard

    def _submit(self) -> Job:
        targets = tuple(name for name, box in self._targets.items() if box.value and box.enabled)
        request = GenerateRequest(
            prompts=self._study.contents(),
            targets=targets,
            weights=self._study.weights(),
            num_samples=int(self._samples.value or 1),
            settings=self._settings.values(),
        )
        return self._service.generate(self._session, request)

    def _show(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._viewer.show(self._session.id, outcome.panels)
        self._notes.show(outcome.notes)
        self._downloads.show(outcome.key)
        if self._send is not None:
            self._send.offer(outcome.key)
        self._to_edit.set_visibility(any(MODALITIES[name].kind == "image" for name in outcome.contents))

    def _take_to_edit(self) -> None:
        if self._outcome is not None:
            self._edit(self._outcome.contents)


# ---- edit: the same patient with other findings, step after step, with a history to go back in -----------------------
@dataclass(frozen=True)
class EditStep:
    """One edit of the history."""

    statements: str
    outcome: Outcome


class EditPage:
    """The part of the page that edits."""

    def __init__(self, service: Service, session: Session) -> None:
        """Lay it out."""
        self._service, self._session = service, session
        self._history: list[EditStep] = []  # may go on after the step that is shown: edits that were undone
        self._position = 0  # steps of the history that count
        with ui.element("div").classes("work"):
            with ui.element("section").classes("form").props('aria-label="Study and change"'):
                Text("h2", "The study", "heading")
                self._study = StudyForm(service, session, self._start_anew, place="edit", kinds=("image", "text"))
                Text("h2", "The change", "heading")
                example = "Large left pleural effusion. No pneumothorax."
                self._statements = ui.textarea("Statements about findings", placeholder=example)
                self._statements.props("outlined dense stack-label autogrow debounce=150 maxlength=4000")
                self._statements.classes("wide")
                with ui.element("details").classes("wide"):
                    Text("summary", "Settings")
                    with ui.element("div").classes("fields"):
                        self._strength = ui.number(
                            "Strength, above 0 to 1 (empty: as measured best)", min=0.05, max=1, step=0.05
                        )
                        self._strength.props("outlined dense").classes("wide")
                        self._settings = SettingsForm(service.facts, ordered=False)
                self._run = RunBar(service, service.queue, "Edit", self._submit, self._add)
                Text("h2", "History", "heading")
                with ui.element("div").classes("run"):
                    self._undo = ui.button("Undo", on_click=lambda: self._go(self._position - 1), color=None)
                    self._redo = ui.button("Redo", on_click=lambda: self._go(self._position + 1), color=None)
                for button in (self._undo, self._redo):
                    button.props("no-caps unelevated")
                self._steps = ui.element("ol").classes("history")
            with ui.element("section").classes("result").props('aria-label="Result"'):
                self._viewer = Viewer(
                    "Films before and after", "Give the films of a study and the change, and press Edit."
                )
                self._notes = Notes()
                with ui.element("div").classes("actions"):
                    self._downloads = Downloads(session)
        self._refresh()

    def take(self, contents: dict[str, Any]) -> None:
        """Begin with the contents of a result of Generate."""
        self._study.fill(contents)
        self._start_anew()

    def _start_anew(self) -> None:
        self._history, self._position = [], 0
        self._refresh()

    def _submit(self) -> Job:
        study = self._history[self._position - 1].outcome.contents if self._position else self._study.contents()
        strength = self._strength.value
        request = EditRequest(
            study=study,
            statements=self._statements.value or "",
            strength=None if strength is None else float(strength),
            settings=self._settings.values(),
        )
        return self._service.edit(self._session, request)

    def _add(self, outcome: Outcome) -> None:
        """A new step after the one that is shown; edits that were undone are dropped, and what is too old to go back to."""
        # An edit of an edit says what its original was outside of too.
        earlier = self._history[self._position - 1].outcome.notes if self._position else []
        notes = list(dict.fromkeys([*earlier[:-1], *outcome.notes]))
        step = EditStep((self._statements.value or "").strip(), Outcome(**{**vars(outcome), "notes": notes}))
        most = self._service.config.limits.max_results
        self._history = [*self._history[: self._position], step][-most:]
        self._go(len(self._history))

    def _go(self, position: int) -> None:
        self._position = position
        self._refresh()

    def _refresh(self) -> None:
        """Show the step that counts last, or nothing before the first."""
        current = self._history[self._position - 1].outcome if self._position else None
        self._viewer.show(self._session.id, current.panels if current else [])
        self._notes.show(current.notes if current else [])
        if current:
            self._downloads.show(current.key)
        self._undo.set_enabled(self._position > 0)
        self._redo.set_enabled(self._position < len(self._history))
        self._steps.clear()
        with self._steps:
            for number, step in enumerate(self._history, start=1):
                Text("li", step.statements, "undone" if number > self._position else "")


# ---- look: pages of evaluations, utility studies, audits, runs and data sets, opened beside their list ---------------
class LookPage:
    """The part of the page that shows what other commands wrote; read only."""

    def __init__(self, service: Service) -> None:
        """Lay it out; the list is read anew whenever it is asked for."""
        self._service = service
        with ui.element("div").classes("work"):
            with ui.element("section").classes("form").props('aria-label="Pages"'):
                Text("h2", "Pages", "heading")
                ui.button("Read the folder again", on_click=self.refresh, color=None).props("no-caps unelevated")
                self._list = ui.element("ul").classes("pages")
            with ui.element("section").classes("result").props('aria-label="Page"'):
                self._title = Text("p", "Choose a page at the left.", "quiet").props("role=status")
                self._frame = (
                    ui.element("iframe").classes("frame").props('title="The chosen page" sandbox="allow-scripts"')
                )
                self._frame.set_visibility(False)
        self.refresh()

    def refresh(self) -> None:
        """List the pages."""
        names = self._service.pages.names()
        self._list.clear()
        with self._list:
            for name in names:
                with ui.element("li"):
                    opens = ui.button(name, on_click=partial(self._open, name), color=None)
                    opens.props("no-caps unelevated align=left")
        if not names:
            given = "holds no page that MedCoDi wrote" if self._service.pages.root else "is not given"
            self._title.text = f"The folder to look at {given}. Fix: medcodi serve --look runs/"

    def _open(self, name: str) -> None:
        self._title.text = name
        prefix = self._service.config.root_path
        self._frame.props["src"] = f"{prefix}/look/{quote(name)}"
        self._frame.set_visibility(True)
