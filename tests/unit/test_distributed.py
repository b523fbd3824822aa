"""Who started us."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from medcodi.distributed import Processes, join_processes, launcher
from medcodi.errors import TrainingError

RANKS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "python"),
        (RANKS, "torchrun"),
        ({**RANKS, "TORCHELASTIC_RUN_ID": "1"}, "torchrun"),
        ({**RANKS, "CROSS_RANK": "0", "LOCAL_SIZE": "2"}, "deepspeed"),
        ({**RANKS, "TORCHELASTIC_RUN_ID": "1", "ACCELERATE_USE_DEEPSPEED": "true"}, "deepspeed"),
    ],
)
def test_the_launcher_is_told_by_what_it_sets(environment: dict[str, str], expected: str) -> None:
    assert launcher(environment) == expected


def test_half_an_environment_is_refused() -> None:
    with pytest.raises(TrainingError, match="MASTER_ADDR"):
        join_processes(RANKS)


def test_ranks_that_do_not_come_are_waited_for_as_long_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in environment.items():  # torch looks here
        monkeypatch.setenv(name, value)
    with pytest.raises(
        TrainingError, match=rf"rank 0 of 2 did not find the others at 127.0.0.1:{port}.*minutes = 0.02"
    ):
        join_processes(environment, timedelta(seconds=1.2))


def test_alone_everything_is_agreed() -> None:
    alone = Processes()
    assert alone.any(True) and not alone.any(False)
    assert alone.gather(3) == [3] and alone.from_first("x") == "x" and alone.is_first
