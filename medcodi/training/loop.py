"""The training loop. It knows no stage and no engine: batches in, steps out, and a checkpoint that misses nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import GlobalBatches, StepBatches
from medcodi.data.stalls import missing, workers_failed
from medcodi.distributed import Ranks, join_ranks, launcher
from medcodi.errors import CheckpointError, TrainingError
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.training import run_folder
from medcodi.training.caching import borrowed, from_cache
from medcodi.training.checkpoint import Checkpoint
from medcodi.training.config import TrainConfig
from medcodi.training.ema import Ema
from medcodi.training.engine import Engine, StepResult, build_engine, check_engine, describe_engine
from medcodi.training.execution import attention_kernels, choose_attention
from medcodi.training.faults import Watch
from medcodi.training.interrupts import Interrupts
from medcodi.training.monitoring.metrics import means_for_ranks
from medcodi.training.monitoring.progress import Progress
from medcodi.training.monitoring.summary import summarise
from medcodi.training.monitoring.trackers import RunLog, check_trackers
from medcodi.training.monitoring.validation import Figures, look_in
from medcodi.training.optimizer import trained_parameters
from medcodi.training.requirements import check_data, check_room
from medcodi.training.result import write_model
from medcodi.training.run_folder import RunFolder
from medcodi.training.saving import CheckpointWriter


def train(config: TrainConfig, resume: str | None = None) -> Path:
    """Run a stage from its start, or from a checkpoint, to its last step.

    The run is a function of its config: train n steps, or train k, be stopped, and resume to n: the same bits.

    Args:
        config: The run.
        resume: ``"latest"``, the path of a checkpoint, or None to begin.

    Returns:
        The run's folder. ``model/`` in it is the trained model, unless the run was stopped by a signal.

    Raises:
        MedCoDiError: If the run cannot start or go on; says why and what to do.
    """
    ranks = join_ranks(timeout=timedelta(minutes=config.faults.exchange_minutes))
    watch = Watch(ranks, config.faults)
    try:
        with (
            watch,
            run_folder.opened(config, resume, ranks) as folder,
            Interrupts(config.max_minutes) as interrupts,
            attention_kernels(config.precision, ranks.device),
        ):
            return Run(config, folder, ranks, watch, resume).to_the_end(interrupts)
    finally:
        ranks.leave()
        watch.linger()


class Run:
    """One run: what changes while it trains, and how that is saved."""

    def __init__(self, config: TrainConfig, folder: RunFolder, ranks: Ranks, watch: Watch, resume: str | None) -> None:
        """Put the run together, as it was left if ``resume`` says so."""
        self.config, self.folder, self.ranks, self.watch = config, folder, ranks, watch
        self.start_step = self.num_updates = self.num_skipped = 0  # the last: in a row
        self.suspects = ""
        self.started_by = launcher(os.environ)
        config.batch.accumulation(ranks.world_size)  # refuse before anything is built
        check_engine(config, ranks, self.started_by)
        if ranks.is_first:
            check_trackers(config.tracking)
        self.dataset = config.data.build()
        validation = config.validation.build() if config.validation else None
        self.held_out = self.dataset if validation is None else validation

        model = run_folder.start_model(config, folder, self.dataset, ranks)
        self.identity = run_folder.identity(config, folder, self.dataset)
        saved = run_folder.checkpoint_to_resume(folder, resume, self.identity, self._announce)
        if saved is not None:
            self.start_step = saved.step
        run_folder.agree(self.identity, self.start_step, folder, ranks)
        self.stage: Any = build_stage(config.stage.name, model, config.stage.options)
        check_data(self.stage, self.dataset)
        if validation is not None:
            check_data(self.stage, validation, "validation")
        if ranks.is_first:
            check_room(folder.checkpoints, config, trained_parameters(self.stage).values(), self.start_step)
        if config.cache is not None:
            self.dataset, validation = from_cache(self.stage, config, self.dataset, validation, ranks, watch)
        if saved is not None:
            run_folder.load_tensors(self.stage, {**saved.tensors["weights"], **saved.tensors["buffers"]})
        self.batches = self._batches(self.dataset)
        self.validation_batches = None if validation is None else self._batches(validation)
        choose_attention(self.stage, config.precision, ranks.device)
        self.engine: Engine = build_engine(self.stage, config, ranks, self.started_by)
        self.ema = Ema(self.engine.shards(), config.ema)
        self.writer = CheckpointWriter(folder.checkpoints, config.checkpoint)
        watch.before_exit = self.writer.finish
        run_folder.accept(config, folder, ranks)

        log = RunLog(folder.root, ranks, config, start_step=self.start_step)
        progress = Progress(config.stage.name, ranks, start_step=self.start_step, steps=config.steps)
        self.figures = Figures(config, log, progress, self.engine, self.start_step)
        if saved is not None:
            self._restore(saved)

    def to_the_end(self, interrupts: Interrupts) -> Path:
        """Train until the last step, or until something asks to stop; save; write the model."""
        self._announce(
            f"stage {self.config.stage.name} in {self.folder.root}: {self.config.batch.describe(self.ranks.world_size)}; "
            f"engine {describe_engine(self.config, self.started_by)}"
        )
        step, stopped = self.start_step, None
        try:
            clock = time.perf_counter()
            for step_batches in self._arriving():
                waited = time.perf_counter() - clock
                result = self.train_step(step_batches)
                step = step_batches.step + 1
                if self.num_skipped >= self.config.faults.max_skipped:
                    self._give_up(step)
                self.figures.note(step, result, waited, time.perf_counter() - clock)
                with borrowed(self.stage.model):
                    look_in(
                        step, self.engine, self.ema, self.config, self.validation_batches, self.figures, self.held_out
                    )
                stopped = interrupts.reason(self.ranks) if step < self.config.steps else None
                if stopped is not None:
                    break
                if (
                    self.config.checkpoint.every
                    and step % self.config.checkpoint.every == 0
                    and step < self.config.steps
                ):
                    self.save(step)
                self.writer.check()
                clock = time.perf_counter()
            self.save(step)
            self.writer.finish()
            self.ranks.barrier()  # the model is made of what was written
        except RuntimeError as error:  # torch raises it for a dead worker wherever the run is just then
            refusal = workers_failed(self.batches, step, error)
            if refusal is None:
                raise
            raise refusal from error
        finally:
            self._close()
        summarise(self.config, self.folder.root, self.ranks)
        if stopped is not None:
            self._announce(f"{stopped}: saved at step {step}; go on with --resume latest")
        if stopped is None or stopped == Interrupts.TIME_IS_UP:  # a scheduler that sends a signal does not wait long
            write_model(self.config, self.folder, self.dataset, self.ranks)
            self._announce(f"model in {self.folder.model}")
        return self.folder.root

    def train_step(self, step_batches: StepBatches) -> StepResult:
        """One optimiser step, its randomness keyed by (seed, step, sample), and the moving average after it."""
        draws = [
            StepRandomness(seed=self.config.seed, step=step_batches.step, samples=batch.samples)
            for batch in step_batches.micro
        ]
        result = self.engine.run_step(step_batches.micro, draws)
        if result.skipped:
            self._leave_out(step_batches, result)
        else:
            self.num_skipped = 0
            self.ema.update(self.num_updates)
            self.num_updates += 1
        return result

    def _leave_out(self, step_batches: StepBatches, result: StepResult) -> None:
        """Name the studies of a step that was not finite: those whose loss was not, else all of the step."""
        mine = result.suspects, [study for batch in step_batches.micro for study in batch.study_ids]
        gathered = self.ranks.gather(mine)
        suspects, everyone = ([study for part in parts for study in part] for parts in zip(*gathered, strict=True))
        if not suspects and self.engine.scalars().get("scale", 0.0) > 1.0:
            return  # fp16: the scale of the loss was too large, and is halved
        self.num_skipped += 1
        self.suspects = ", ".join(suspects or everyone)
        what = "its loss was" if suspects else "its loss was finite, its gradient"
        self._announce(f"step {step_batches.step + 1} left out: {what} not finite; studies: {self.suspects}")

    def _give_up(self, step: int) -> None:
        """Save what there is: the weights are those of the last finite step."""
        self.save(step)
        self.writer.finish()
        self.ranks.barrier()
        raise TrainingError(
            f"{self.num_skipped} steps in a row were not finite, the last with studies {self.suspects or 'unknown'}; "
            f"saved at step {step}",
            expected="finite losses and gradients",
            fix="look at these studies; --resume latest goes on after them, or change optimizer.lr or precision in a new run",
        )

    def _arriving(self) -> Iterator[StepBatches]:
        """The batches of this rank; whoever does not deliver them in time is named."""
        source, limit = self.batches, self.config.faults.data_s
        limit += min(30.0, limit) if self.config.num_workers else 0.0  # torch watches over workers, and tells more

        def wait(step: int) -> None:
            self.watch.at(f"waiting for the data of step {step + 1}", limit, lambda: missing(source, step))

        wait(self.start_step)
        for step_batches in source.iterate(self.start_step, self.config.steps):
            self.watch.at(f"taking step {step_batches.step + 1}")
            yield step_batches
            wait(step_batches.step + 1)
        self.watch.at("finishing")

    def _close(self) -> None:
        """End the bar and the log; a checkpoint that is being written is not cut off."""
        self.figures.progress.close()
        self.figures.log.close()
        if sys.exc_info()[0] is not None:
            with suppress(CheckpointError):  # there is a reason already
                self.writer.finish()

    # ---- state ---------------------------------------------------------------------------------------------------
    def save(self, step: int) -> None:
        """Take a snapshot and have it written; every rank calls this."""
        self.watch.at(f"saving at step {step}")
        self.writer.finish()  # before the next snapshot is taken: one at most is in memory
        engine = self.engine
        tensors = {"weights": engine.whole(engine.shards()), "optimizer": engine.optimizer_state()}
        if self.config.ema.enabled:
            tensors["ema"] = engine.whole(self.ema.average)
        persistent = self.stage.state_dict().keys()
        tensors["buffers"] = {
            name: value.cpu().clone() for name, value in self.stage.named_buffers() if name in persistent
        }
        state = {
            "step": step,
            "num_updates": self.num_updates,
            "identity": self.identity,
            "scalars": engine.scalars(),
            "means": self.ranks.gather(self.figures.means.state()),
            "micro_batches": self.config.batch.accumulation(self.ranks.world_size) * self.ranks.world_size,
        }
        if self.ranks.is_first:
            self.writer.write(Checkpoint(tensors, state))

    def _restore(self, saved: Checkpoint) -> None:
        """Optimiser, average and unfinished means as they were; the weights were loaded before the engine was built."""
        self.num_updates = int(saved.state["num_updates"])
        self.engine.load_optimizer_state(saved.tensors["optimizer"], self.num_updates)
        self.engine.load_scalars(saved.state["scalars"])
        if self.config.ema.enabled:
            self.ema.load(self.engine.share(saved.tensors["ema"]))
        world_size = self.ranks.world_size
        micro = self.config.batch.accumulation(world_size) * world_size / saved.state.get("micro_batches", world_size)
        means = means_for_ranks(saved.state["means"], world_size, micro)
        self.figures.means.load(means[self.ranks.rank])
        self._announce(f"going on from step {saved.step}")

    def _batches(self, dataset: StudyDataset) -> GlobalBatches:
        return GlobalBatches(
            dataset,
            batch_size=self.config.batch.global_size,
            seed=self.config.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            accumulation=self.config.batch.accumulation(self.ranks.world_size),
            num_workers=self.config.num_workers,
            timeout_s=self.config.faults.data_s,
        )

    def _announce(self, text: str) -> None:
        if self.ranks.is_first:
            print(text, flush=True)
