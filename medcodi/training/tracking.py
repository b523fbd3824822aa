"""What a run tells: ``log.jsonl``, TensorBoard, and a bar or plain lines."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medcodi.errors import MissingExtraError
from medcodi.training.processes import Processes


class Means:
    """Running means of named scalars over steps, micro-batches and ranks; NaN counts as absent.

    Device tensors are kept as they come and read all at once, so that logging never makes the device wait in between.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[str, Tensor]] = []
        self._sums: dict[str, list[float]] = {}  # name -> [sum, count]

    def add(self, logs: Mapping[str, Tensor | float]) -> None:
        """Take scalars in."""
        for name, value in logs.items():
            if isinstance(value, Tensor):
                self._pending.append((name, value.detach()))
            else:
                self._count(name, value)

    def _count(self, name: str, value: float) -> None:
        if not math.isnan(value):
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] += value
            entry[1] += 1.0

    def state(self) -> dict[str, list[float]]:
        """Sums and counts so far, ready for JSON."""
        for name, value in self._pending:
            self._count(name, float(value))
        self._pending.clear()
        return self._sums

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        """Take back what :meth:`state` gave."""
        self._pending.clear()
        self._sums = {name: list(entry) for name, entry in state.items()}

    def take(self, processes: Processes) -> dict[str, float]:
        """Means over all ranks, and begin anew. Every rank calls this."""
        total: dict[str, list[float]] = {}
        for sums in processes.gather(self.state()):
            for name, (value, count) in sums.items():
                entry = total.setdefault(name, [0.0, 0.0])
                entry[0] += value
                entry[1] += count
        self._sums = {}
        return {name: value / count for name, (value, count) in total.items()}


class RunLog:
    """Files that a run writes on its first rank; on the others nothing happens."""

    def __init__(self, root: Path, processes: Processes, *, start_step: int, tensorboard: bool) -> None:
        """Open the files; what was logged after ``start_step`` by a run that was killed is taken out.

        Raises:
            MissingExtraError: If TensorBoard is asked for and not installed.
        """
        self._writer: Any = None
        self._file: Any = None
        if not processes.is_first:
            return
        path = root / "log.jsonl"
        kept = (
            [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= start_step]
            if path.exists() and start_step
            else []
        )
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingExtraError(
                    "tensorboard", extra="tracking", needed_for="tracking.tensorboard=true"
                ) from None
            self._writer = SummaryWriter(str(root / "tensorboard"), purge_step=start_step + 1 if start_step else None)

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float] | None = None) -> None:
        """One line: everything in ``values`` is a function of the run, ``timing`` of the machine."""
        if self._file is None:
            return
        line: dict[str, Any] = {"step": step, **values}
        if timing:
            line["timing"] = {name: round(value, 6) for name, value in timing.items()}
        self._file.write(json.dumps(line) + "\n")
        if self._writer is not None:
            for name, value in {**values, **{f"timing/{key}": value for key, value in (timing or {}).items()}}.items():
                self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """One picture for TensorBoard: ``[H, W]`` in [0, 1]."""
        if self._writer is not None:
            self._writer.add_image(name, pixels[None], step)

    def text(self, step: int, name: str, text: str) -> None:
        """One text for TensorBoard."""
        if self._writer is not None:
            self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
        if self._file is not None:
            self._file.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line cut short by a kill


class Progress:
    """A rich bar on a terminal, plain lines elsewhere, nothing but on the first rank."""

    def __init__(self, title: str, processes: Processes, *, start_step: int, steps: int) -> None:
        self._speaks, self._steps, self._bar = processes.is_first, steps, None
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
