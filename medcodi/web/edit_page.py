"""Edit: the same patient with other findings, step after step, with a history to go back in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nicegui import ui

from medcodi.web.elements import Text, Viewer
from medcodi.web.forms import RunBar, SettingsForm, StudyForm
from medcodi.web.generate_page import Downloads, Notes
from medcodi.web.jobs import Job
from medcodi.web.requests import EditRequest, Outcome
from medcodi.web.service import Service
from medcodi.web.sessions import Session


@dataclass(frozen=True)
class Step:
    """One edit of the history."""

    statements: str
    outcome: Outcome


class EditPage:
    """The part of the page that edits."""

    def __init__(self, service: Service, session: Session) -> None:
        """Lay it out."""
        self._service, self._session = service, session
        self._history: list[Step] = []  # may go on after the step that is shown: edits that were undone
        self._position = 0  # steps of the history that count
        with ui.element("div").classes("work"):
            with ui.element("section").classes("form").props('aria-label="Study and change"'):
                Text("h2", "The study", "heading")
                self._study = StudyForm(service, session, self._start_anew, place="edit", kinds=("image", "text"))
                Text("h2", "The change", "heading")
                self._statements = ui.textarea("Statements about findings, such as: Large left pleural effusion.")
                self._statements.props("outlined dense autogrow debounce=150 maxlength=4000").classes("wide")
                with ui.element("details").classes("wide"):
                    Text("summary", "Settings")
                    with ui.element("div").classes("fields"):
                        self._strength = ui.number(
                            "Strength, above 0 to 1 (empty: as measured best)", min=0.05, max=1, step=0.05
                        )
                        self._strength.props("outlined dense").classes("wide")
                        self._settings = SettingsForm(service.facts, ordered=False)
                self._run = RunBar(service, "Edit", self._submit, self._add)
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
        step = Step((self._statements.value or "").strip(), Outcome(**{**vars(outcome), "notes": notes}))
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
