"""What a run shows of itself: figures of its steps, losses on held-out studies, samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import GlobalBatches, collate
from medcodi.randomness import StepRandomness
from medcodi.training.config import TrainConfig
from medcodi.training.ema import Ema
from medcodi.training.engine import Engine, StepResult
from medcodi.training.samples import Samples, draw_samples, write_samples
from medcodi.training.tracking import Means, Progress, RunLog


class Figures:
    """Means of what the steps gave since the last logged one, and the time they took."""

    def __init__(self, config: TrainConfig, log: RunLog, progress: Progress) -> None:
        self.config, self.log, self.progress = config, log, progress
        self.means = Means()
        self._seconds = self._waited = 0.0
        self._steps = 0

    def note(self, step: int, result: StepResult, waited: float, seconds: float, engine: Engine) -> None:
        """Take a step's figures in; every ``log_every`` steps write their means.

        Args:
            step: Steps done.
            result: Of the step.
            waited: Seconds of it spent waiting for data.
            seconds: Seconds it took.
            engine: Whose ranks the means are over.
        """
        if not result.skipped:
            for loss, logs in zip(result.losses, result.logs, strict=True):
                self.means.add({"loss": loss, **logs})
            self.means.add({} if result.grad_norm is None else {"grad_norm": result.grad_norm})
        self._seconds += seconds
        self._waited += waited
        self._steps += 1
        self.progress.advance(step)
        if step % self.config.tracking.log_every == 0 or step == self.config.steps:
            values = {**self.means.take(engine.processes), "lr": result.lr}
            rate = self._steps * self.config.batch.global_size / max(self._seconds, 1e-9)
            timing = {
                "seconds_per_step": self._seconds / self._steps,
                "studies_per_second": rate,
                "data_wait": self._waited / self._seconds,
            }
            self.log.scalars(step, values, timing)
            self.progress.figures(step, values, rate)
            self._seconds, self._waited, self._steps = 0.0, 0.0, 0


@contextmanager
def evaluating(engine: Engine, ema: Ema) -> Iterator[None]:
    """The stage in evaluation mode with the averaged weights, without gradients, at the run's precision."""
    engine.stage.eval()
    try:
        with torch.no_grad(), ema.swapped_in(), engine.evaluation():
            yield
    finally:
        engine.stage.train()


def validation_losses(engine: Engine, batches: GlobalBatches, config: TrainConfig) -> dict[str, float]:
    """Mean losses on held-out studies, with the same batches and the same draws every time.

    Returns:
        ``validation/<name>`` -> mean over ranks and batches.
    """
    means = Means()
    for step_batches in batches.iterate(0, config.tracking.validate_batches):
        for batch in step_batches.micro:
            draw = StepRandomness(seed=config.seed, step=0, samples=batch.samples)
            output = engine.stage(batch.to(engine.processes.device), draw)
            means.add({"loss": output.loss, **output.logs})
    return {f"validation/{name}": value for name, value in means.take(engine.processes).items()}


def samples(engine: Engine, dataset: StudyDataset, config: TrainConfig) -> Samples:
    """What the model makes of the first studies: every rank draws them, for under ZeRO-3 it takes all of them."""
    model: Any = engine.stage.model
    indices = list(range(min(config.tracking.num_samples, len(dataset))))
    batch = collate([dataset[index] for index in indices], indices, dataset.image_size)
    return draw_samples(config.stage.name, model, batch.to(engine.processes.device), config.seed)


def look_in(
    step: int,
    engine: Engine,
    ema: Ema,
    config: TrainConfig,
    validation: GlobalBatches | None,
    figures: Figures,
    dataset: StudyDataset,
) -> None:
    """Validation and samples, where they are due after this step."""
    tracking = config.tracking
    if validation is not None and tracking.validate_every and step % tracking.validate_every == 0:
        with evaluating(engine, ema):
            values = validation_losses(engine, validation, config)
        figures.log.scalars(step, values)
        figures.progress.say(f"step {step}  validation loss {values['validation/loss']:.4f}")
    if tracking.samples_every and step % tracking.samples_every == 0:
        with evaluating(engine, ema):
            drawn = samples(engine, dataset, config)
        if engine.processes.is_first:
            write_samples(drawn, step, config.out, figures.log)
