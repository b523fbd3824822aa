"""What a run logs, and where."""

from __future__ import annotations

from typing import Literal

from medcodi.config import config
from medcodi.training.monitoring.alerts import AlertConfig


@config
class WandbConfig:
    """Weights & Biases: what TensorBoard shows, on its server or (``offline``) in the run's folder, to be sent later.

    Attributes:
        project: The run's project.
        mode: ``offline`` needs no network; ``disabled`` logs nothing there, and does not need the package.
        name: The run's name; None: the name of its folder.
        entity: User or team; None: the account's own.
        tags: Words to find it by.
        samples: Also send sample grids and texts. They show studies of the data: only where these may leave the machine.
    """

    project: str = "medcodi"
    mode: Literal["online", "offline", "disabled"] = "online"
    name: str | None = None
    entity: str | None = None
    tags: tuple[str, ...] = ()
    samples: bool = False

    def __post_init__(self) -> None:
        if not self.project:
            raise ValueError("project is empty")


@config
class TrackingConfig:
    """What a run logs.

    Attributes:
        tensorboard: Write TensorBoard events beside ``log.jsonl``.
        wandb: Also log to Weights & Biases; None: no.
        log_every: Steps between two logged lines; each holds means over these steps.
        samples_every: Steps between two sample grids; 0: none.
        samples: Directions in a grid: those that the ``stage`` trains, or ``all`` of the model.
        num_samples: Studies in a sample grid.
        validate_every: Steps between two validations; 0: never.
        validate_batches: Least number of batches in a validation; rounded up until every timestep bucket, and every set of
            targets in ``join``, comes equally often.
        mfu: Log model FLOPs utilisation, the share of the device's peak that the run reaches.
        mfu_after: Seconds of a run before it is measured, because that takes time; 0: at the first logged line.
        peak_tflops: Peak of one device; None: what a matrix product reaches on it.
        alerts: Early signs of trouble that are called out.
        summary: Write ``summary.html`` at the end: the run's curves, for any browser.
    """

    tensorboard: bool = True
    wandb: WandbConfig | None = None
    log_every: int = 20
    samples_every: int = 0
    samples: Literal["stage", "all"] = "stage"
    num_samples: int = 4
    validate_every: int = 0
    validate_batches: int = 4
    mfu: bool = True
    mfu_after: float = 60.0
    peak_tflops: float | None = None
    alerts: AlertConfig = AlertConfig()
    summary: bool = True

    def __post_init__(self) -> None:
        for name in ("log_every", "num_samples", "validate_batches", "peak_tflops"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, must be above 0")
        if self.samples_every < 0 or self.validate_every < 0 or self.mfu_after < 0:
            raise ValueError("samples_every, validate_every and mfu_after must not be negative")
