"""How a run goes on, on the screen: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping

from medcodi.distributed import Ranks


class Progress:
    """A rich bar on a terminal, plain lines elsewhere, nothing but on the first rank."""

    def __init__(self, title: str, ranks: Ranks, *, start_step: int, steps: int) -> None:
        self._speaks, self._steps, self._bar = ranks.is_first, steps, None
        self._began, self._start_step = time.monotonic(), start_step
        if self._speaks and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn(title),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=steps, completed=start_step, figures="")
            self._bar.start()

    def say(self, text: str) -> None:
        """One line."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._speaks:
            print(text, file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def figures(self, step: int, values: Mapping[str, float], studies_per_second: float) -> None:
        """Show the figures of a logged step."""
        text = f"loss {values.get('loss', math.nan):.4f}  lr {values['lr']:.2e}  {studies_per_second:.1f} studies/s"
        if self._bar is not None:
            self._bar.update(self._task, figures=text)
            return
        left = (time.monotonic() - self._began) / max(1, step - self._start_step) * (self._steps - step)
        self.say(f"step {step}/{self._steps}  {text}  {left / 60:.1f} min left")

    def close(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
