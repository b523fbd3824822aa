"""The seam between the training loop and what watches it: the loop calls observers, and knows none of them by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from medcodi.training.monitoring.trackers import RunLog

if TYPE_CHECKING:
    from medcodi.training.engine import StepResult
    from medcodi.training.run import Run

# Called in this order. A new observer is one more row.
OBSERVERS = (
    "medcodi.training.monitoring.truncation:TruncationObserver",
    "medcodi.training.monitoring.step_log:StepLog",
    "medcodi.training.monitoring.validation:Validation",
    "medcodi.training.monitoring.samples:SampleGrids",
    "medcodi.training.monitoring.summary:SummaryPage",
)


@dataclass(frozen=True)
class StepReport:
    """One optimiser step, as observers see it."""

    step: int  # steps done, this one included
    result: StepResult
    waited: float  # seconds spent waiting for its data
    seconds: float  # seconds it took, waiting included


class Observer:
    """Watches a run; every method does nothing by default. All ranks call the same methods, so observers may exchange."""

    state_key: ClassVar[str | None] = None  # of the observer's state in a checkpoint; None: it has none

    def __init__(self, run: Run, log: RunLog) -> None:
        self.run, self.log = run, log

    def on_start(self) -> None:
        """Before the first step, with weights, optimiser and average as they were resumed."""

    def on_step(self, report: StepReport) -> None:
        """After every step."""

    def on_end(self) -> None:
        """After the last checkpoint is on disk and the log is closed; not after an error."""

    def state_dict(self) -> Any:
        """This rank's state, ready for JSON; taken at every checkpoint."""
        return None

    def load_state_dict(self, states: list[Any], micro_ratio: float) -> None:
        """Restore the state.

        Args:
            states: :meth:`state_dict` of every rank that wrote the checkpoint.
            micro_ratio: Micro-batches in a global batch now, divided by those then.
        """


class Observers:
    """All observers of a run, and the log that they share."""

    def __init__(self, run: Run) -> None:
        """Open the log and build every observer in the table."""
        self.log = RunLog(run.folder.root, run.ranks, run.config, start_step=run.start_step)
        self._ranks = run.ranks
        self._observers: list[Observer] = []
        for row in OBSERVERS:
            module, _, name = row.partition(":")
            self._observers.append(getattr(import_module(module), name)(run, self.log))

    def __iter__(self) -> Iterator[Observer]:
        return iter(self._observers)

    def state_dict(self) -> dict[str, list[Any]]:
        """Key -> state of every rank, for the checkpoint; every rank calls this."""
        stateful = [observer for observer in self._observers if observer.state_key is not None]
        return {str(observer.state_key): self._ranks.gather(observer.state_dict()) for observer in stateful}

    def load_state_dict(self, state: dict[str, Any], micro_ratio: float) -> None:
        """Restore every observer that the checkpoint's ``state`` has a key for."""
        for observer in self._observers:
            if observer.state_key in state:
                observer.load_state_dict(state[observer.state_key], micro_ratio)
