"""Look: pages of evaluations, utility studies, audits, runs and data sets, opened beside their list."""

from __future__ import annotations

from functools import partial
from urllib.parse import quote

from nicegui import ui

from medcodi.web.elements import Text
from medcodi.web.service import Service


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
