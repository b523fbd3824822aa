"""What a run tells, and to whom: ``log.jsonl``, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medcodi.config import to_dict
from medcodi.distributed import Ranks
from medcodi.errors import MissingExtraError
from medcodi.modality import MODALITIES
from medcodi.training.config import TrainConfig
from medcodi.training.monitoring.config import TrackingConfig
from medcodi.training.monitoring.wandb_tracker import WandbTracker, import_wandb


@dataclass(frozen=True)
class Story:
    """What was told of a run so far.

    Attributes:
        root: The run's folder.
        config: The run.
        step: It goes on from here; 0: it begins.
        lines: What was logged until then.
        retold: True if more than that was logged, by a run that was killed: it is taken out, for it will be told again.
    """

    root: Path
    config: TrainConfig
    step: int
    lines: Sequence[Mapping[str, Any]]
    retold: bool


class Tracker(Protocol):
    """Someone who is told; opened on the first rank, and told nothing twice."""

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Figures of a step; ``timing`` is the machine's."""
        ...

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture ``[H, W]`` in [0, 1]."""
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """A text."""
        ...

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """Signs of trouble."""
        ...

    def close(self) -> None:
        """Nothing more will be told."""
        ...


class JsonLines:
    """``log.jsonl``: one JSON object a logged step. The truth; the others are views of it."""

    def __init__(self, story: Story) -> None:
        path = story.root / "log.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in story.lines), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """One line."""
        rounded = {name: round(value, 6) for name, value in timing.items()}
        self._write({"step": step, **values, **({"timing": rounded} if timing else {})})

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Nothing: pictures lie in a folder of their own."""

    def text(self, step: int, name: str, text: str) -> None:
        """Nothing: they lie beside the pictures."""

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """One line."""
        self._write({"step": step, "alerts": list(texts)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def import_summary_writer() -> Any:
    """TensorBoard's writer.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", extra="tracking", needed_for="tracking.tensorboard=true") from None
    return SummaryWriter


class TensorBoard:
    """TensorBoard events in ``tensorboard/``."""

    def __init__(self, story: Story) -> None:
        """Open them; events after the step gone on from are marked as void.

        Raises:
            MissingExtraError: If TensorBoard is not installed.
        """
        folder = story.root / "tensorboard"
        void = (
            story.step + 1 if folder.exists() else None
        )  # also where it goes on from step 0: killed before its first checkpoint
        self._writer: Any = import_summary_writer()(str(folder), purge_step=void)
        if story.config.tracking.validate_every:
            plots = {f"loss by timestep, {name}": ["Multiline", [rf"validation/t/.*/{name}$"]] for name in MODALITIES}
            self._writer.add_custom_scalars({"validation": plots})

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """A point on each curve."""
        for name, value in {**values, **{f"timing/{key}": value for key, value in timing.items()}}.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture."""
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


def _tensorboard(story: Story) -> Tracker | None:
    return TensorBoard(story) if story.config.tracking.tensorboard else None


def _wandb(story: Story) -> Tracker | None:
    options = story.config.tracking.wandb
    if options is None or options.mode == "disabled":
        return None
    return WandbTracker(options, story.root, to_dict(story.config), lines=story.lines, retold=story.retold)


# Name -> opens it, or gives None where the config does not ask for it. A new tracker is one more row.
TRACKERS: dict[str, Callable[[Story], Tracker | None]] = {
    "jsonl": JsonLines,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def check_trackers(tracking: TrackingConfig) -> None:
    """Refuse trackers that are not installed, before anything is computed.

    Raises:
        MissingExtraError: Names the extra.
    """
    if tracking.tensorboard:
        import_summary_writer()
    if tracking.wandb is not None and tracking.wandb.mode != "disabled":
        import_wandb()


class RunLog:
    """What a run tells, on its first rank; on the others nothing happens.

    Attributes:
        before: The lines that were logged until the step that the run goes on from.
    """

    def __init__(self, root: Path, ranks: Ranks, config: TrainConfig, *, start_step: int) -> None:
        """Open every tracker; what was logged after ``start_step`` by a run that was killed is taken out.

        Raises:
            MissingExtraError: If a tracker that is asked for is not installed.
            TrainingError: If it cannot be told.
        """
        self.before: list[dict[str, Any]] = []
        self._trackers: list[Tracker] = []
        if not ranks.is_first:
            return
        path = root / "log.jsonl"
        found = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.before = [json.loads(line) for line in found if start_step and _step(line) <= start_step]
        story = Story(root, config, start_step, self.before, retold=len(self.before) < len(found))
        self._trackers = [opened for opener in TRACKERS.values() if (opened := opener(story)) is not None]

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float] | None = None) -> None:
        """Figures of a step: everything in ``values`` is a function of the run, ``timing`` of the machine."""
        for tracker in self._trackers:
            tracker.scalars(step, values, timing or {})

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture: ``[H, W]`` in [0, 1]."""
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

    def close(self) -> None:
        """Flush and close."""
        for tracker in self._trackers:
            tracker.close()
        self._trackers = []


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line cut short by a kill
