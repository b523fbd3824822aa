"""Config of logging: contents and destinations."""

from __future__ import annotations

from typing import Literal

from medcodi.config import check_positive, config
from medcodi.training.monitoring.alerts import AlertConfig


@config
class WandbConfig:
    """Weights & Biases: what TensorBoard shows, on its server or (``offline``) in the run's folder, to be sent later."""

    project: str = "medcodi"  # the run's project
    # offline needs no network; disabled logs nothing there, and does not need the package
    mode: Literal["online", "offline", "disabled"] = "online"
    name: str | None = None  # the run's name; None: the name of its folder
    entity: str | None = None  # user or team; None: the account's own
    tags: tuple[str, ...] = ()  # words to find it by
    # also send sample grids and texts. They show studies of the data: only where these may leave the machine
    samples: bool = False

    def __post_init__(self) -> None:
        if not self.project:
            raise ValueError("project is empty")


@config
class TrackingConfig:
    """Contents of the log."""

    tensorboard: bool = True  # write TensorBoard events beside log.jsonl
    wandb: WandbConfig | None = None  # also log to Weights & Biases; None: no
    log_every: int = 20  # steps between two logged lines; each holds means over these steps
    samples_every: int = 0  # steps between two sample grids; 0: none
    samples: Literal["stage", "all"] = "stage"  # directions in a grid: those that the stage trains, or all of the model
    num_samples: int = 4  # studies in a sample grid
    validate_every: int = 0  # steps between two validations; 0: never
    # least number of batches in a validation; rounded up until every timestep bucket, and every set of targets in
    # join, comes equally often
    validate_batches: int = 4
    mfu: bool = True  # log model FLOPs utilisation, the share of the device's peak that the run reaches
    # seconds of a run before it is measured, because that takes time; 0: at the first logged line
    mfu_after: float = 60.0
    peak_tflops: float | None = None  # peak of one device; None: what a matrix product reaches on it
    alerts: AlertConfig = AlertConfig()  # early signs of trouble that are called out
    summary: bool = True  # write summary.html at the end: the run's curves, for any browser

    def __post_init__(self) -> None:
        check_positive(self, "log_every", "num_samples", "validate_batches", "peak_tflops")
        if self.samples_every < 0 or self.validate_every < 0 or self.mfu_after < 0:
            raise ValueError("samples_every, validate_every and mfu_after must not be negative")
