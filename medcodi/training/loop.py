"""The training loop: batches in, optimiser steps out, checkpoints on disk. It knows no stage, engine or observer by name."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from medcodi.data.batches import workers_failed
from medcodi.distributed import join_ranks, launcher
from medcodi.errors import CheckpointError, MedCoDiError, TrainingError
from medcodi.randomness import StepRandomness
from medcodi.training import run_folder
from medcodi.training.checkpoint import CheckpointWriter
from medcodi.training.execution import attention_kernels
from medcodi.training.faults import Watchdog
from medcodi.training.monitoring.observer import Observers, StepReport
from medcodi.training.run import Run

if TYPE_CHECKING:
    from medcodi.data.batches import StepBatches
    from medcodi.distributed import Ranks
    from medcodi.training.config import TrainConfig
    from medcodi.training.engine import StepResult


STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def train(config: TrainConfig, resume: str | None = None) -> Path:
    """Run a stage from its start, or from a checkpoint, to its last step.

    The run is a function of its config: train n steps, or train k, be stopped, and resume to n: the same bits.

    Args:
        config: The run.
        resume: ``"latest"``, the path of a checkpoint, or None to start.

    Returns:
        The run's folder. ``model/`` in it is the trained model, unless the run was stopped by a signal.

    Raises:
        MedCoDiError: If the run cannot start or continue; says why and what to do.
        KeyboardInterrupt: After Ctrl-C, with what was saved.
    """
    ranks = join_ranks(timeout=timedelta(minutes=config.faults.exchange_minutes))
    watchdog = Watchdog(ranks, config.faults)
    try:
        with (
            watchdog,
            run_folder.opened(config, resume, ranks) as folder,
            Interrupts(config.max_minutes, forwarded=launcher(os.environ) != "python") as interrupts,
            attention_kernels(config.precision, ranks.device),
        ):
            root = Loop(Run(config, folder, ranks, watchdog, resume), watchdog).train(interrupts)
    except MedCoDiError as error:
        # The first rank knows of every refusal, and prints it; unless it is the one that died.
        error.printed_by_first = not ranks.is_first and getattr(error, "blames", None) != 0
        raise
    finally:
        ranks.leave()
        watchdog.linger()
    if interrupts.by_keyboard:  # a loop over stages in a shell or a notebook ends here too
        raise KeyboardInterrupt(f"the run {root} is saved")
    return root


class Loop:
    """Takes the steps of a run, reports each to the observers, and saves."""

    def __init__(self, run: Run, watchdog: Watchdog) -> None:
        """Open the log, and restore the observers' state where the run resumes."""
        self.run, self.watchdog = run, watchdog
        self.num_skipped, self.suspects = 0, ""  # steps skipped in a row, and studies of the last of them
        self.writer = CheckpointWriter(run.folder.checkpoints, run.config.checkpoint)
        watchdog.before_exit = self.writer.finish
        self.observers = Observers(run)
        if run.resumed_state is not None:
            self.observers.load_state_dict(run.resumed_state, run.micro_ratio)

    def train(self, interrupts: Interrupts) -> Path:
        """Train until the last step, or until an interrupt; save; write the model."""
        run, config = self.run, self.run.config
        run.announce(run.describe())
        interrupts.begun = True
        step, stop = run.start_step, None
        try:
            for observer in self.observers:
                observer.on_start()
            clock = time.perf_counter()
            for step_batches in self.batches():
                waited = time.perf_counter() - clock

                # One optimiser step; too many in a row that were not finite end the run.
                result = self.train_step(step_batches)
                step = step_batches.step + 1
                if self.num_skipped >= config.faults.max_skipped:
                    self._give_up(step)

                # Metrics, validation, samples.
                report = StepReport(step, result, waited, time.perf_counter() - clock)
                for observer in self.observers:
                    observer.on_step(report)

                # Stop where a signal or the time limit says so; save where a checkpoint is due.
                stop = interrupts.reason(run.ranks) if step < config.steps else None
                if stop is not None:
                    break
                if config.checkpoint.every and step % config.checkpoint.every == 0 and step < config.steps:
                    self.save(step)
                self.writer.check()  # raises what went wrong in writing the last one
                clock = time.perf_counter()

            # The last checkpoint, whole on disk before any rank makes the model from it.
            self.save(step)
            self.writer.finish()
            run.ranks.barrier()
        except RuntimeError as error:  # torch raises it for a dead worker, wherever the run is at that moment
            refusal = workers_failed(run.batches, step, error)
            if refusal is None:
                raise
            raise refusal from error
        finally:
            self._close()
        for observer in self.observers:
            observer.on_end()
        if stop is not None:
            run.announce(f"{stop}: saved at step {step}; resume with --resume latest")
        if stop is None or stop == Interrupts.TIME_IS_UP:  # a scheduler that sends a signal does not wait for the model
            result = run_folder.write_model(config, run.folder, run.dataset, run.domain, run.ranks)
            run.announce(f"{'adapter' if config.low_rank is not None else 'model'} in {result}")
        return run.folder.root

    def batches(self) -> Iterator[StepBatches]:
        """This rank's batches of every step to come; data that do not arrive in time end the run."""
        run = self.run
        yield from self.watchdog.batches(run.batches, run.start_step, run.config.steps)

    def train_step(self, step_batches: StepBatches) -> StepResult:
        """One optimiser step, its randomness keyed by (seed, step, sample), and the moving average after it."""
        run = self.run
        # A step of private training may have drawn no patient: it is noise alone.
        samples = [batch.samples for batch in step_batches.micro] or [()]
        draws = [StepRandomness(seed=run.config.seed, step=step_batches.step, samples=drawn) for drawn in samples]
        result = run.engine.run_step(step_batches.micro, draws)
        if result.skipped:
            self._report_skipped(step_batches, result)
        else:
            self.num_skipped = 0
            run.ema.update(run.num_updates)
            run.num_updates += 1
        return result

    def _report_skipped(self, step_batches: StepBatches, result: StepResult) -> None:
        """Name the studies of a step that was not finite: those whose loss was not, else all of the step."""
        run = self.run
        of_this_rank = result.suspects, [study for batch in step_batches.micro for study in batch.study_ids]
        gathered = run.ranks.gather(of_this_rank)
        suspects, studies = ([study for part in parts for study in part] for parts in zip(*gathered, strict=True))
        if not suspects and run.engine.scalars().get("scale", 0.0) > 1.0:
            return  # fp16: the loss scale was too large, and is halved
        self.num_skipped += 1
        self.suspects = ", ".join(suspects or studies)
        what = "its loss was" if suspects else "its loss was finite, its gradient"
        run.announce(f"step {step_batches.step + 1} skipped: {what} not finite; studies: {self.suspects}")

    def _give_up(self, step: int) -> None:
        """Save the weights of the last finite step, and refuse to continue."""
        self.save(step)
        self.writer.finish()
        self.run.ranks.barrier()
        raise TrainingError(
            f"{self.num_skipped} steps in a row were not finite, the last with studies {self.suspects or 'unknown'}; "
            f"saved at step {step}",
            expected="finite losses and gradients",
            fix="look at these studies; --resume latest continues after them, or change optimizer.lr or precision in a new run",
        )

    def save(self, step: int) -> None:
        """Take a snapshot and start writing it; every rank calls this."""
        self.watchdog.report(f"saving at step {step}")
        self.writer.finish()  # at most one snapshot is in memory
        snapshot = self.run.snapshot(step, self.observers.state_dict())
        if self.run.ranks.is_first:
            self.writer.write(snapshot)

    def _close(self) -> None:
        """Close the log; a checkpoint that is being written is finished."""
        self.observers.log.close()
        if sys.exc_info()[0] is not None:
            with suppress(CheckpointError):  # the error that is being raised comes first
                self.writer.finish()


class Interrupts:
    """While entered, SIGTERM, SIGUSR1 and Ctrl-C ask for a stop at the end of the step; a second request ends the process.

    Launchers forward what the scheduler has sent to every process already (``forwarded``): a signal soon after is the same request.
    Ctrl-C before the first step ends the run at once, because there is nothing to save.
    """

    TIME_IS_UP = "max_minutes reached"
    SAME_REQUEST_S = 5.0

    def __init__(self, max_minutes: float | None, *, forwarded: bool = True) -> None:
        self.begun = False  # whether there are steps to save
        self._same_request_s = self.SAME_REQUEST_S if forwarded else 0.0
        self._deadline = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
        self._signal: int | None = None
        self._signal_time = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for number, handler in self._previous.items():
            # A signal that ends processes stays noted where it was received: a launcher may forward it when the run is saved already.
            if number != self._signal or handler is not signal.SIG_DFL:
                signal.signal(number, handler)

    @property
    def by_keyboard(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._signal == signal.SIGINT

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not self.begun:
            raise KeyboardInterrupt
        if self._signal is not None and time.monotonic() - self._signal_time < self._same_request_s:
            return
        if self._signal is not None:  # the second request: do not wait for the step, which may never end
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal, self._signal_time = number, time.monotonic()
        if number == signal.SIGINT and os.environ.get("RANK", "0") == "0":
            # Not print: the signal may have come while a line is being printed.
            os.write(2, b"\nThe run is saved after this step; a second Ctrl-C stops it at once.\n")

    def reason(self, ranks: Ranks) -> str | None:
        """Why every rank should stop now, or None. Every rank calls this at the end of each step."""
        if ranks.any(self._signal is not None):
            return f"{signal.Signals(self._signal).name} received" if self._signal else "another rank received a signal"
        if ranks.any(self._deadline is not None and time.monotonic() > self._deadline):
            return self.TIME_IS_UP
        return None
