"""Destinations of the log: ``log.jsonl``, TensorBoard, Weights & Biases, and the screen."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi.distributed import Ranks
from medcodi.errors import MissingExtraError
from medcodi.modality import MODALITIES
from medcodi.training.monitoring.config import TrackingConfig

if TYPE_CHECKING:
    import numpy as np

    from medcodi.training.config import TrainConfig


@dataclass(frozen=True)
class History:
    """Everything that a run has logged so far."""

    root: Path  # the run's folder
    config: TrainConfig
    step: int  # the step that the run resumes from; 0: it starts
    lines: Sequence[Mapping[str, Any]]  # what was logged until then
    discarded: bool  # a run that was killed logged more: these lines are dropped, and will be logged again


# A new tracker is one more row.
TRACKERS = (
    "medcodi.training.monitoring.trackers:JsonLines",
    "medcodi.training.monitoring.trackers:TensorBoard",
    "medcodi.training.monitoring.wandb_tracker:WandbTracker",
    "medcodi.training.monitoring.trackers:Screen",
)


class Tracker:
    """One place where a run is logged; exists on the first rank only. Every method does nothing by default."""

    def __init__(self, history: History) -> None:
        """Open it."""

    @staticmethod
    def is_configured(tracking: TrackingConfig) -> bool:
        """Whether a run logs here."""
        return True

    @staticmethod
    def check() -> None:
        """Raise MissingExtraError if a package is not installed."""

    def advance(self, step: int) -> None:
        """A step is done."""

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Values of a step; ``timing`` is a function of the machine, ``values`` of the run."""

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """An image ``[H, W]`` in [0, 1]."""

    def text(self, step: int, name: str, text: str) -> None:
        """A text."""

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """Signs of trouble."""

    def note(self, text: str) -> None:
        """A remark for the person in front of the screen."""

    def close(self) -> None:
        """Flush and close."""


class JsonLines(Tracker):
    """``log.jsonl``: one JSON object per logged step. Every other tracker shows a part of it."""

    def __init__(self, history: History) -> None:
        path = history.root / "log.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in history.lines), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """One line."""
        rounded = {name: round(value, 6) for name, value in timing.items()}
        self._write({"step": step, **values, **({"timing": rounded} if timing else {})})

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """One line."""
        self._write({"step": step, "alerts": list(texts)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def import_summary_writer() -> Any:
    """TensorBoard's writer; MissingExtraError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", extra="tracking", needed_for="tracking.tensorboard=true") from None
    return SummaryWriter


class TensorBoard(Tracker):
    """TensorBoard events in ``tensorboard/``; those after the step that a run resumes from are marked as void."""

    def __init__(self, history: History) -> None:
        folder = history.root / "tensorboard"
        # Also a run that starts again from step 0, because it was killed before its first checkpoint.
        purge_step = history.step + 1 if folder.exists() else None
        self._writer: Any = import_summary_writer()(str(folder), purge_step=purge_step)
        if history.config.tracking.validate_every:
            plots = {f"loss by timestep, {name}": ["Multiline", [rf"validation/t/.*/{name}$"]] for name in MODALITIES}
            self._writer.add_custom_scalars({"validation": plots})

    @staticmethod
    def is_configured(tracking: TrackingConfig) -> bool:
        """Whether a run logs here."""
        return tracking.tensorboard

    @staticmethod
    def check() -> None:
        """Raise MissingExtraError if TensorBoard is not installed."""
        import_summary_writer()

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """A point on each curve."""
        for name, value in {**values, **{f"timing/{key}": value for key, value in timing.items()}}.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """An image."""
        self._writer.add_image(name, pixels[None], step)

    def text(self, step: int, name: str, text: str) -> None:
        """A text."""
        self._writer.add_text(name, text, step)

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """A text."""
        self._writer.add_text("alerts", "\n\n".join(texts), step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Screen(Tracker):
    """Standard error: a progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, history: History) -> None:
        self._steps, self._start_step = history.config.steps, history.step
        self._minutes = history.config.max_minutes
        self._began, self._bar = time.monotonic(), None
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            from medcodi.console import SafeConsole

            title = history.config.stage.name
            columns = (title, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[values]}")
            self._bar = Progress(*columns, console=SafeConsole(stderr=True))
            self._task = self._bar.add_task(title, total=self._steps, completed=self._start_step, values="")
            self._bar.start()

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """The loss of training or of validation."""
        if "validation/loss" in values:
            self.note(f"step {step}  validation loss {values['validation/loss']:.4f}")
        if "lr" not in values:
            return
        rate = timing["studies_per_second"]
        text = f"loss {values.get('loss', math.nan):.4f}  lr {values['lr']:.2e}  {rate:.1f} studies/s"
        if self._bar is not None:
            self._bar.update(self._task, values=text)
            return
        elapsed = time.monotonic() - self._began
        left, where = elapsed / max(1, step - self._start_step) * (self._steps - step), f"step {step}/{self._steps}"
        # A run that its time ends before its steps.
        if self._minutes is not None and (limit := 60 * self._minutes - elapsed) < left:
            left, where = max(limit, 0.0), f"step {step}"
        self.note(f"{where}  {text}  {left / 60:.1f} min left")

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """One line each."""
        for text in texts:
            self.note(f"LOOK: {text}")

    def note(self, text: str) -> None:
        """One line."""
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


def configured_trackers(tracking: TrackingConfig) -> Iterator[type[Tracker]]:
    """The trackers that a config names."""
    for row in TRACKERS:
        module, _, name = row.partition(":")
        tracker = getattr(import_module(module), name)
        if tracker.is_configured(tracking):
            yield tracker


def check_trackers(tracking: TrackingConfig) -> None:
    """Raise MissingExtraError for a tracker that is not installed, before anything is computed."""
    for tracker in configured_trackers(tracking):
        tracker.check()


class RunLog:
    """All trackers of a run, on its first rank; on the other ranks nothing is logged."""

    def __init__(self, root: Path, ranks: Ranks, config: TrainConfig, *, start_step: int) -> None:
        """Open every tracker; what a run that was killed logged after ``start_step`` is dropped.

        Raises:
            MissingExtraError: If a tracker is not installed.
            TrainingError: If a tracker refuses the run.
        """
        self.resumed_lines: list[dict[str, Any]] = []  # logged until the step that the run resumes from
        self._trackers: list[Tracker] = []
        if not ranks.is_first:
            return
        path = root / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.resumed_lines = [json.loads(line) for line in lines if start_step and _step_of(line) <= start_step]
        discarded = len(self.resumed_lines) < len(lines)
        history = History(root, config, start_step, self.resumed_lines, discarded)
        self._trackers = [tracker(history) for tracker in configured_trackers(config.tracking)]

    def advance(self, step: int) -> None:
        """A step is done."""
        for tracker in self._trackers:
            tracker.advance(step)

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float] | None = None) -> None:
        """Values of a step: ``values`` are a function of the run, ``timing`` of the machine."""
        for tracker in self._trackers:
            tracker.scalars(step, values, timing or {})

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """An image ``[H, W]`` in [0, 1]."""
        for tracker in self._trackers:
            tracker.image(step, name, pixels)

    def text(self, step: int, name: str, text: str) -> None:
        """A text."""
        for tracker in self._trackers:
            tracker.text(step, name, text)

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """Signs of trouble."""
        for tracker in self._trackers:
            tracker.alerts(step, texts)

    def note(self, text: str) -> None:
        """A remark for the person in front of the screen."""
        for tracker in self._trackers:
            tracker.note(text)

    def close(self) -> None:
        """Flush and close."""
        for tracker in self._trackers:
            tracker.close()
        self._trackers = []


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line that a kill cut short
