"""The seam between loop and observers: a table of classes that share one protocol, and a state per key."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medcodi.distributed import Ranks
from medcodi.training.engine import PlainEngine
from medcodi.training.monitoring.observer import OBSERVERS, Observer, Observers
from medcodi.training.run_folder import RunFolder
from tests.unit.training.toy import ToyStage, toy_config


def observers(root: Path, **tracking: Any) -> Observers:
    config = toy_config(tracking={"tensorboard": False, "mfu": False, **tracking})
    run: Any = SimpleNamespace(
        config=config,
        ranks=Ranks(),
        folder=RunFolder(root),
        engine=PlainEngine(ToyStage(), config, Ranks()),
        validation=None,
        studies=(),
        start_step=0,
    )
    return Observers(run)


def test_every_row_of_the_table_is_an_observer_and_adds_no_method_the_loop_would_have_to_know() -> None:
    protocol = {name for name in vars(Observer) if not name.startswith("__")}
    for row in OBSERVERS:
        module, _, name = row.partition(":")
        observer = getattr(import_module(module), name)
        assert issubclass(observer, Observer)
        assert {method for method in vars(observer) if not method.startswith("_")} <= protocol, name


def test_states_are_gathered_by_key_and_only_known_keys_are_restored(tmp_path: Path) -> None:
    first = observers(tmp_path)
    (step_log,) = [observer for observer in first if observer.state_key is not None]
    step_log.load_state_dict([{"loss": [3.0, 2.0]}], 1.0)
    state = first.state_dict()
    assert state == {"means": [{"loss": [3.0, 2.0]}]}
    first.log.close()
    second = observers(tmp_path)
    second.load_state_dict({**state, "step": 4, "identity": {}}, 1.0)  # as in a checkpoint, beside other keys
    assert second.state_dict() == state
    second.load_state_dict({"step": 4}, 1.0)  # a checkpoint without it
    assert second.state_dict() == state
    second.log.close()


def test_what_is_not_due_or_not_configured_does_nothing(tmp_path: Path) -> None:
    watched = observers(tmp_path, summary=False)
    for observer in watched:
        observer.on_start()
        observer.on_end()
    watched.log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
