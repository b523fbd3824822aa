"""Losses on held-out studies, with the averaged weights and the same draws every time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medcodi.stages.step import NUM_BUCKETS, ValidationRandomness
from medcodi.training.ema import evaluating
from medcodi.training.monitoring.metrics import NamedMeans
from medcodi.training.monitoring.observer import Observer, StepReport

if TYPE_CHECKING:
    from medcodi.data.batches import GlobalBatches
    from medcodi.stages.stage import Stage
    from medcodi.training.engine import Engine


class Validation(Observer):
    """Logs ``validation/…`` every ``tracking.validate_every`` steps."""

    def on_step(self, report: StepReport) -> None:
        """Validate where it is due."""
        run, tracking = self.run, self.run.config.tracking
        if run.validation is None or not tracking.validate_every or report.step % tracking.validate_every:
            return
        with evaluating(run.engine, run.ema):
            means = validation_means(run.engine, run.validation, run.config.seed, tracking.validate_batches)
        self.log.scalars(report.step, {f"validation/{name}": value for name, value in means.take().items()})


def rounds(stage: Stage, batches: GlobalBatches) -> tuple[int, int]:
    """Number of batches after which every timestep bucket, and also every kind of step, has come equally often."""
    buckets = NUM_BUCKETS // math.gcd(NUM_BUCKETS, batches.batch_size) if stage.timed else 1
    return buckets, buckets * stage.num_turns


def validation_means(engine: Engine, batches: GlobalBatches, seed: int, num_batches: int) -> NamedMeans:
    """Losses on held-out studies, with the same batches and the same draws every time.

    Timesteps are stratified over all rows of all ranks, so that every bucket has equally many; a stage that draws what a
    step trains (``join`` its targets) trains every set in turn.

    Args:
        engine: Holds the stage, in evaluation mode.
        batches: Held-out studies.
        seed: The run's.
        num_batches: At least; rounded up until every bucket and every set comes equally often.

    Returns:
        Means of what the stage logs, ``t/000-099/<modality>`` and so on per bucket among them.
    """
    stage, ranks = engine.stage, engine.ranks
    means = NamedMeans(ranks)
    per_bucket, per_round = rounds(stage, batches)
    num_batches = -(-num_batches // per_round) * per_round
    for step_batches in batches.iterate(0, num_batches):
        # Position of this rank's first row among all rows of all batches: it decides the timestep.
        position = step_batches.step * batches.batch_size + ranks.rank * batches.batch_size // ranks.world_size
        for batch in step_batches.micro:
            draws = ValidationRandomness(
                seed=seed,
                step=0,
                samples=batch.samples,
                positions=tuple(range(position, position + len(batch))),
                turn=step_batches.step // per_bucket,
            )
            output = stage(batch.to(ranks.device), draws)
            means.update({"loss": output.loss, **output.logs})
            position += len(batch)
    return means
