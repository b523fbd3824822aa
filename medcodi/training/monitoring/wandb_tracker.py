"""Weights & Biases as a tracker, with a server or without a network."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.errors import MissingExtraError, TrainingError, first_line
from medcodi.training.monitoring.config import WandbConfig

RECORD = Path("wandb") / "medcodi.json"  # in the run's folder: which of the server's runs it is


def import_wandb() -> Any:
    """The package ``wandb``.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import wandb
        import wandb.errors
    except ImportError:
        raise MissingExtraError("wandb", extra="tracking", needed_for="tracking.wandb") from None
    return wandb


class WandbTracker:
    """A run at Weights & Biases, whose id lies in the run's folder, so that a resumed run goes on with it.

    What was told cannot be taken back there. A run that was killed, and tells some steps again, therefore goes on as a new one,
    which is told the lines that hold, and names the one it takes the place of.
    """

    def __init__(
        self,
        options: WandbConfig,
        root: Path,
        config: Mapping[str, Any],
        *,
        lines: Sequence[Mapping[str, Any]],
        retold: bool,
    ) -> None:
        """Open it.

        Args:
            options: Where.
            root: The run's folder.
            config: The run's settings, to be shown beside it.
            lines: What was logged and holds; empty where the run begins.
            retold: Others were told after them.

        Raises:
            MissingExtraError: If the package is not installed.
            TrainingError: If it refuses, as it does without a key.
        """
        wandb = self._wandb = import_wandb()
        self.options = options
        record = root / RECORD
        known = json.loads(record.read_text(encoding="utf-8")) if record.exists() and lines else {}
        replaces = known.get("id") if retold else None
        goes_on = bool(known) and not retold
        run_id = known["id"] if goes_on else secrets.token_hex(4)
        record.parent.mkdir(parents=True, exist_ok=True)
        name = options.name or root.resolve().name
        try:
            self._run: Any = wandb.init(
                id=run_id,
                resume="allow" if goes_on and options.mode == "online" else None,
                project=options.project,
                entity=options.entity,
                name=name,
                group=name,
                tags=list(options.tags) or None,
                notes=f"takes the place of run {replaces}, which was killed" if replaces else None,
                mode=options.mode,
                dir=str(root),
                config=dict(config),
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
                f"Weights & Biases does not take the run: {first_line(error)}",
                expected="a key and a network for mode online",
                fix="`wandb login`, or tracking.wandb.mode=offline",
            ) from error
        record.write_text(json.dumps({"id": run_id, "project": options.project}) + "\n", encoding="utf-8")
        for line in () if goes_on else lines:
            self._retell(line)

    def _retell(self, line: Mapping[str, Any]) -> None:
        values = {name: value for name, value in line.items() if isinstance(value, (int, float)) and name != "step"}
        self.scalars(int(line["step"]), values, line.get("timing", {}))

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """A point on each curve."""
        self._run.log({**values, **{f"timing/{name}": value for name, value in timing.items()}}, step=step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, where samples may be sent."""
        if self.options.samples:
            picture = (pixels * 255.0 + 0.5).astype(np.uint8)
            self._run.log({name: self._wandb.Image(picture)}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """A text, where samples may be sent."""
        if self.options.samples:
            page = text.replace("&", "&amp;").replace("<", "&lt;")
            self._run.log({f"{name}/text": self._wandb.Html(f"<pre>{page}</pre>", inject=False)}, step=step)

    def alerts(self, step: int, texts: Sequence[str]) -> None:
        """An alert each: the server may send a message."""
        for text in texts:
            self._run.alert(title=text.partition(":")[0], text=text, level=self._wandb.AlertLevel.WARN)

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()
