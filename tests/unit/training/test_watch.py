"""Nobody waits for ever: data that do not come end the run, and an exchange that fails is put down to who made it fail."""

from __future__ import annotations

import time

import pytest

from medcodi.errors import DataError, TrainingError
from medcodi.training.config import FaultConfig
from medcodi.training.processes import Processes
from medcodi.training.watch import Sign, Watch


def test_data_that_do_not_come_end_the_run_and_are_named() -> None:
    watch, began = Watch(Processes(), FaultConfig(data_s=0.3)), time.monotonic()
    with pytest.raises(TrainingError, match=r"rank 0: step 3 did not come.*faults.data_s = 0.3 s.*disk"), watch:
        watch.at("waiting for the data of step 4", 0.3, lambda: "rank 0: step 3 did not come")
        time.sleep(60)
    watch.linger()
    assert time.monotonic() - began < 20


def test_data_that_come_in_time_do_not() -> None:
    with Watch(Processes(), FaultConfig(data_s=0.3)) as watch:
        for _ in range(4):
            watch.at("waiting", 0.3, lambda: "late")
            time.sleep(0.1)
        watch.at("taking step 1")
        time.sleep(0.6)


@pytest.mark.parametrize("error", [DataError("a bad study"), KeyError("a bug"), RuntimeError("a bug as well")])
def test_errors_of_a_rank_alone_come_out_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, Watch(Processes(), FaultConfig()):
        raise error
    assert raised.value is error


def test_of_many_that_stopped_the_one_that_began_it_is_named() -> None:
    watch = Watch(Processes(rank=0, world_size=4), FaultConfig(rank_s=5.0))
    assert watch._stopped() is None and watch._silent(5.0) is None
    watch._signs[1] = Sign(left="TrainingError: rank 3 stopped", blames=3)
    assert "rank 1 says: TrainingError: rank 3 stopped" in str(watch._stopped())
    watch._signs[3] = Sign(doing="taking step 7", left="DataError: study 'x' cannot be read")
    assert "rank 3 stopped while taking step 7: DataError: study 'x'" in str(watch._stopped())


def test_who_finished_is_not_dead_and_who_is_silent_is() -> None:
    watch = Watch(Processes(rank=0, world_size=3), FaultConfig(rank_s=5.0))
    long_ago = time.monotonic() - 60.0
    watch._signs[1] = Sign(left="", seen=long_ago)
    assert watch._silent(5.0) is None and watch._stopped() is None
    watch._signs[2] = Sign(doing="taking step 7", seen=long_ago)
    assert "rank 2 died: no sign of life for 60 s, the last while taking step 7" in str(watch._silent(5.0))
