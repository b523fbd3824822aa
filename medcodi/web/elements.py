"""Elements of the page that NiceGUI does not have: headings, the viewer of films, the place to drop one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from medcodi.web.requests import Panel

FILM_FILES = ".dcm,.dicom,.png,.jpg,.jpeg,.jp2,.tif,.tiff,.bmp,.webp"


class Text(TextElement):
    """A native element that holds a text, which no markup in it can leave."""

    def __init__(self, tag: str, text: str = "", classes: str = "") -> None:
        super().__init__(tag=tag, text=text)
        self.classes(classes)


class Viewer(Element, component="static/viewer.js"):
    """Panels of films and texts side by side, with window, zoom and place of the reader study's viewer (``pages/viewer``)."""

    def __init__(self, label: str, empty: str) -> None:
        """Show nothing yet; ``label`` is for screen readers, ``empty`` is read where there is nothing."""
        super().__init__()
        self._props |= {"panels": [], "label": label, "empty": empty}

    def show(self, session: str, panels: Sequence[Panel]) -> None:
        """Show the panels of a result; films are fetched by their keys."""
        films = ("film", "before", "after")
        self._props["panels"] = [
            {name: f"/films/{session}/{value}" if name in films else value for name, value in panel.items()}
            for panel in panels
        ]
        self.update()


class Drop(Element, component="static/drop.js"):
    """A place to drop a film; its content goes to ``url``, and never through the web socket."""

    def __init__(
        self, title: str, url: str, max_bytes: int, *, taken: Callable[[], Any], removed: Callable[[], Any]
    ) -> None:
        super().__init__()
        self._props |= {"title": title, "url": url, "accept": FILM_FILES, "maxBytes": max_bytes, "shown": ""}
        self.on("taken", taken, [])
        self.on("removed", removed, [])

    def show(self, name: str) -> None:
        """Show the name of a film that is there already."""
        self._props["shown"] = name
        self.update()
