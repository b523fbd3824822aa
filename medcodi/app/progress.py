"""One look for every progress bar of the command line."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def progress_bar(console: Console) -> Progress:
    """A bar with a description of fixed width, the time gone by and the time left; use it as a context."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


class _RateColumn(ProgressColumn):
    """How many a second, or a minute where a second is too short; what was there at the start does not count."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("- /s")
        return Text(f"{speed:.1f} /s" if speed >= 1 else f"{speed * 60:.1f} /min")


def counting_bar(console: Console) -> Progress:
    """A bar for long lists: how many of how many, at which rate, the time gone by and the time left."""
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), _RateColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, *times, console=console, speed_estimate_period=600)
