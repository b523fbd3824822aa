"""What a run shows of itself: figures of its steps, losses on held-out studies, samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import GlobalBatches, collate
from medcodi.stages.stage import Stage
from medcodi.stages.step import NUM_BUCKETS, ValidationRandomness
from medcodi.training.config import TrainConfig
from medcodi.training.ema import Ema
from medcodi.training.engine import Engine, StepResult
from medcodi.training.monitoring import update_size
from medcodi.training.monitoring.alerts import Alerts
from medcodi.training.monitoring.metrics import Means
from medcodi.training.monitoring.progress import Progress
from medcodi.training.monitoring.samples import Samples, draw_samples, write_samples
from medcodi.training.monitoring.throughput import Utilisation, memory
from medcodi.training.monitoring.trackers import RunLog
from medcodi.training.monitoring.update_size import Motion


class Figures:
    """Means of what the steps gave since the last logged one, the time they took, and what is wrong with them."""

    def __init__(
        self, config: TrainConfig, log: RunLog, progress: Progress, engine: Engine, start_step: int = 0
    ) -> None:
        """Begin after ``start_step`` steps; signs of trouble know what was logged before."""
        self.config, self.log, self.progress, self._engine = config, log, progress, engine
        self.means = Means()
        self._motion = Motion(engine)
        self._utilisation = Utilisation(config, engine.ranks.device, engine.ranks.world_size)
        self._told_utilisation = False
        self._alerts = Alerts(
            config.tracking.alerts, num_rows=config.batch.global_size, warmup_steps=config.optimizer.warmup_steps
        )
        for line in log.before:
            self._alerts.see(line["step"], {name: value for name, value in line.items() if isinstance(value, float)})
        self._seconds = self._waited = 0.0
        self._steps = 0
        if self._is_due(start_step + 1):
            self._motion.remember()

    def _is_due(self, step: int) -> bool:
        return step % self.config.tracking.log_every == 0 or step == self.config.steps

    def note(self, step: int, result: StepResult, waited: float, seconds: float) -> None:
        """Take a step's figures in; every ``log_every`` steps write their means.

        Args:
            step: Steps done.
            result: Of the step.
            waited: Seconds of it spent waiting for data.
            seconds: Seconds it took.
        """
        if not result.skipped:
            for loss, logs in zip(result.losses, result.logs, strict=True):
                self.means.add({"loss": loss, **logs})
            self.means.add(self._gradient(result))
        self._seconds += seconds
        self._waited += waited
        self._steps += 1
        self.progress.advance(step)
        if self._is_due(step):
            if not result.skipped:
                self.means.add(self._motion.moved())
            self._tell(step, result.lr)
            self._seconds, self._waited, self._steps = 0.0, 0.0, 0
        if self._is_due(step + 1):
            self._motion.remember()

    def _gradient(self, result: StepResult) -> dict[str, float]:
        if result.grad_norm is None:
            return {}
        limit = self.config.optimizer.grad_clip
        clipped = {} if limit is None else {"clipped": float(result.grad_norm > limit)}
        return {"grad_norm": result.grad_norm, **clipped}

    def _tell(self, step: int, lr: float) -> None:
        """A logged line: means over all ranks; of waiting and memory, the greatest of all ranks."""
        engine = self._engine
        machine = {"data_wait": self._waited / max(self._seconds, 1e-9), **memory(engine.ranks.device)}
        means, greatest = self.means.take(engine.ranks, machine)
        values = {**update_size.finished(means), "lr": lr}
        if not engine.ranks.is_first:
            return
        rate = self._steps * self.config.batch.global_size / max(self._seconds, 1e-9)
        timing = {"seconds_per_step": self._seconds / self._steps, "studies_per_second": rate, **greatest}
        used = self._utilisation.figures(engine.stage.model, rate)
        self.log.scalars(step, values, {**timing, **used})
        self.progress.figures(step, values, rate)
        words = self._utilisation.in_words(used)
        if words and not self._told_utilisation:
            self._told_utilisation = True
            self.progress.say(words)
        alerts = self._alerts.see(step, values)
        if alerts:
            texts = [f"{alert.kind}: {alert.text}." for alert in alerts]
            self.log.alerts(step, texts)
            for text in texts:
                self.progress.say(f"LOOK: {text}")


@contextmanager
def evaluating(engine: Engine, ema: Ema) -> Iterator[None]:
    """The stage in evaluation mode with the averaged weights, without gradients, at the run's precision."""
    engine.stage.eval()
    try:
        with torch.no_grad(), ema.swapped_in(), engine.evaluation():
            yield
    finally:
        engine.stage.train()


def rounds(stage: Stage, batches: GlobalBatches) -> tuple[int, int]:
    """Batches after which every timestep bucket came equally often, and after which every kind of step did so too."""
    even = NUM_BUCKETS // math.gcd(NUM_BUCKETS, batches.batch_size) if stage.timed else 1
    return even, even * stage.num_turns


def validation_losses(engine: Engine, batches: GlobalBatches, config: TrainConfig) -> dict[str, float]:
    """Mean losses on held-out studies, with the same batches and the same draws every time.

    Timesteps are stratified over all rows of all ranks, so that each bucket has equally many; a stage that draws what it
    takes a step on (``join`` its targets) takes everything in turn.

    Returns:
        ``validation/<name>`` -> mean over ranks and batches; ``validation/t/000-099/<modality>`` and so on for each bucket.
    """
    means, stage, ranks = Means(), engine.stage, engine.ranks
    even, whole = rounds(stage, batches)
    num_batches = -(-config.tracking.validate_batches // whole) * whole
    for step_batches in batches.iterate(0, num_batches):
        place = step_batches.step * batches.batch_size + ranks.rank * batches.batch_size // ranks.world_size
        for batch in step_batches.micro:
            draw = ValidationRandomness(
                seed=config.seed,
                step=0,
                samples=batch.samples,
                positions=tuple(range(place, place + len(batch))),
                turn=step_batches.step // even,
            )
            output = stage(batch.to(ranks.device), draw)
            means.add({"loss": output.loss, **output.logs})
            place += len(batch)
    return {f"validation/{name}": value for name, value in means.take(ranks)[0].items()}


def samples(engine: Engine, dataset: StudyDataset, config: TrainConfig) -> Samples:
    """What the model makes of the first studies: every rank draws them, for under ZeRO-3 it takes all of them."""
    indices = list(range(min(config.tracking.num_samples, len(dataset))))
    batch = collate([dataset[index] for index in indices], indices, dataset.image_size)
    return draw_samples(engine.stage, batch.to(engine.ranks.device), config.seed, config.tracking.samples)


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
        if engine.ranks.is_first:
            write_samples(drawn, step, config.out, figures.log)
