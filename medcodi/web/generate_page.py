"""Generate: prompts at the left, what is made of them at the right, beside each other in the viewer."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from nicegui import ui

from medcodi.modality import MODALITIES
from medcodi.web.elements import Text, Viewer
from medcodi.web.forms import RunBar, SettingsForm, StudyForm
from medcodi.web.jobs import Job
from medcodi.web.requests import GenerateRequest, Outcome
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
                self._run = RunBar(service, "Generate", self._submit, self._show)
            with ui.element("section").classes("result").props('aria-label="Result"'):
                self._viewer = Viewer(
                    "Films and reports", "Give a report, a film or nothing at all, and press Generate."
                )
                self._notes = Notes()
                with ui.element("div").classes("actions"):
                    self._downloads = Downloads(session)
                    self._to_edit = ui.button("Edit this examination", on_click=self._take_to_edit, color=None)
                    self._to_edit.props("no-caps unelevated").set_visibility(False)
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
        self._to_edit.set_visibility(any(MODALITIES[name].kind == "image" for name in outcome.contents))

    def _take_to_edit(self) -> None:
        if self._outcome is not None:
            self._edit(self._outcome.contents)
