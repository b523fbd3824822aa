"""The terminal: what is printed is shown letter by letter, wherever it came from. Styles are given as ``rich.text.Text``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

# What a terminal obeys instead of showing it: control characters but tab and line end, changes of the writing direction; and
# halves of characters, which no terminal can be sent.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """A text with every character that a terminal would obey replaced by a sign: an escape becomes ``␛``."""
    return _UNSAFE.sub(lambda match: chr(0x2400 + ord(match[0])) if match[0] < " " else "\ufffd", text)


class SafeConsole(Console):
    """A console for values of any origin: brackets and colons in them mean nothing, and control characters are signs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, before it is laid out: a sign takes the place of a character that has no width."""
        return super().render_str(shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything printed passes here: tables, panels and progress bars too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def progress_of(console: Console | None = None, *, disable: bool = False) -> Progress:
    """A bar with description, count and remaining time, on stderr without a ``console``; a context manager."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console or SafeConsole(stderr=True), disable=disable)


def bars_of(progress: Progress, prefix: str = "") -> Callable[[str, int, int], None]:
    """A function of (description, done, total) that shows a bar for each description."""
    bars: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = progress.add_task(f"{prefix}{what}", total=total)
        progress.update(bars[what], completed=done, total=total)

    return report
