"""Weights & Biases as a tracker, with a server or without a network."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.config import to_dict
from medcodi.errors import MissingExtraError, TrainingError, first_line
from medcodi.storage import atomic
from medcodi.training.monitoring.config import TrackingConfig
from medcodi.training.monitoring.trackers import History, Tracker

RECORD = Path("wandb") / "medcodi.json"  # in the run's folder: the id of the run on the server


def import_wandb() -> Any:
    """The package ``wandb``; MissingExtraError if it is not installed."""
    try:
        import wandb
        import wandb.errors
    except ImportError:
        raise MissingExtraError("wandb", extra="tracking", needed_for="tracking.wandb") from None
    return wandb


class WandbTracker(Tracker):
    """A run at Weights & Biases, whose id is stored in the run's folder, so that a resumed run continues it.

    What was sent cannot be taken back there. A run that was killed, and logs some steps again, therefore becomes a new one,
    to which the valid lines are sent; its notes name the one that it replaces.
    """

    def __init__(self, history: History) -> None:
        """Open the run.

        Raises:
            MissingExtraError: If the package is not installed.
            TrainingError: If it refuses, as it does without a key.
        """
        wandb, config, root = import_wandb(), history.config.tracking.wandb, history.root
        assert config is not None  # it is configured
        self._wandb, self.config = wandb, config

        # Continue the run on record, unless it was sent lines that are not valid any more.
        record = root / RECORD
        previous = json.loads(record.read_text(encoding="utf-8")) if record.exists() and history.lines else {}
        replaces = previous.get("id") if history.discarded else None
        continues = bool(previous) and not history.discarded
        run_id = previous["id"] if continues else secrets.token_hex(4)
        record.parent.mkdir(parents=True, exist_ok=True)
        name = config.name or root.resolve().name
        try:
            self._run: Any = wandb.init(
                id=run_id,
                resume="allow" if continues and config.mode == "online" else None,
                project=config.project,
                entity=config.entity,
                name=name,
                group=name,
                tags=list(config.tags) or None,
                notes=f"replaces run {replaces}, which was killed" if replaces else None,
                mode=config.mode,
                dir=str(root),
                config=to_dict(history.config),
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    disable_git=True,
                    disable_code=True,
                    x_disable_meta=True,
                    save_code=False,
                ),
            )
        except (wandb.errors.Error, TimeoutError) as error:
            raise TrainingError(
                f"Weights & Biases refuses the run: {first_line(error)}",
                expected="a key and a network for mode online",
                fix="`wandb login`, or tracking.wandb.mode=offline",
            ) from error
        atomic.write_json(record, {"id": run_id, "project": config.project})
        for line in () if continues else history.lines:
            self._send(line)

    @staticmethod
    def is_configured(tracking: TrackingConfig) -> bool:
        """Whether a run logs here."""
        return tracking.wandb is not None and tracking.wandb.mode != "disabled"

    @staticmethod
    def check() -> None:
        """Raise MissingExtraError if the package is not installed."""
        import_wandb()

    def _send(self, line: Mapping[str, Any]) -> None:
        values = {name: value for name, value in line.items() if isinstance(value, (int, float)) and name != "step"}
        self.scalars(int(line["step"]), values, line.get("timing", {}))

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """A point on each curve."""
        self._run.log({**values, **{f"timing/{name}": value for name, value in timing.items()}}, step=step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """An image, where samples may be sent."""
        if self.config.samples:
            picture = (pixels * 255.0 + 0.5).astype(np.uint8)
            self._run.log({name: self._wandb.Image(picture)}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """A text, where samples may be sent."""
        if self.config.samples:
            page = text.replace("&", "&amp;").replace("<", "&lt;")
            self._run.log({f"{name}/text": self._wandb.Html(f"<pre>{page}</pre>", inject=False)}, step=step)

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """An alert each: the server may send a message."""
        for text in texts:
            self._run.alert(title=text.partition(":")[0], text=text, level=self._wandb.AlertLevel.WARN)

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()
