"""Who started us."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest

from medcodi import distributed
from medcodi.distributed import ALONE, Ranks, join_ranks, launcher, printed_elsewhere, rank_device
from medcodi.errors import ConfigError, DataError, TrainingError

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


def test_a_process_takes_the_requested_device_else_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_device("cuda:3", {"LOCAL_RANK": "1"}) == "cuda:3"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for num_gpus, environment, expected in (
        (1, {}, "cuda"),
        (2, {}, "cuda:0"),
        (2, {"LOCAL_RANK": "1"}, "cuda:1"),
        (2, {"LOCAL_RANK": "3"}, "cuda:1"),
    ):
        monkeypatch.setattr("torch.cuda.device_count", lambda num_gpus=num_gpus: num_gpus)
        assert rank_device(None, environment) == expected
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert rank_device(None, {"LOCAL_RANK": "1"}) == "cpu"


def test_a_refusal_is_printed_by_the_first_rank_and_by_another_only_where_that_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "PATIENCE_S", 0.01)
    error = TrainingError("no data")
    assert not printed_elsewhere(error, {}) and not printed_elsewhere(error, {"RANK": "0"})
    assert not printed_elsewhere(error, {"RANK": "1"})  # no launcher has ended it meanwhile
    error.printed_by_first = True
    assert printed_elsewhere(error, {"RANK": "1"})


def test_torchrun_prints_the_refusal_in_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    file = tmp_path / "error.json"
    environment = {"RANK": "0", "TORCHELASTIC_ERROR_FILE": str(file), "TORCHELASTIC_RESTART_COUNT": "0"}
    error = DataError("no folder at x", expected="a folder", fix="check the path")
    # A process that torchrun starts once more is in no report.
    assert not printed_elsewhere(error, {**environment, "TORCHELASTIC_MAX_RESTARTS": "1"}) and not file.exists()
    assert printed_elsewhere(error, {**environment, "TORCHELASTIC_MAX_RESTARTS": "0"})
    (tmp_path / "0").mkdir()
    (tmp_path / "0/error.json").write_text(file.read_text())
    second = {"RANK": "1", "TORCHELASTIC_ERROR_FILE": str(tmp_path / "1/error.json")}
    monkeypatch.setattr(distributed, "PATIENCE_S", 0.01)
    assert printed_elsewhere(error, second) and not printed_elsewhere(error, {"RANK": "1"})
    report = str(ChildFailedError("train.py", {0: ProcessFailure(0, 1, 2, str(file))}))
    assert "DataError: no folder at x.\n  Expected a folder.\n  Fix: check the path.\n====" in report


@cache
def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_half_an_environment_is_refused() -> None:
    with pytest.raises(TrainingError, match="MASTER_ADDR"):
        join_ranks(RANKS)


def test_ranks_that_do_not_come_are_waited_for_as_long_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    environment = {**RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in environment.items():  # torch looks here
        monkeypatch.setenv(name, value)
    with pytest.raises(
        TrainingError, match=rf"rank 0 of 2 did not find the others at 127.0.0.1:{port}.*minutes = 0.02"
    ):
        join_ranks(environment, timedelta(seconds=1.2))


def test_alone_everything_is_agreed() -> None:
    alone = Ranks()
    assert alone.any(True) and not alone.any(False)
    assert alone.gather(3) == [3] and alone.broadcast("x") == "x" and alone.is_first
    assert alone.share("abc") == list("abc") and alone.unshare([1, 2]) == [1, 2] and alone.by_first(lambda: 4) == 4


def test_a_job_without_a_launcher_that_only_exchanges_values_is_alone() -> None:
    assert join_ranks({}, computing=False) is ALONE
    assert join_ranks({"RANK": "0", "WORLD_SIZE": "1"}, computing=False) is ALONE
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        join_ranks(RANKS, computing=False, error=ConfigError)


def _rank(rank: int, port: str, out: Path) -> None:
    environment = {"RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(environment)
    ranks = join_ranks(environment, timedelta(seconds=60), computing=False)
    results: dict = {"any": ranks.any(rank == 1), "none": ranks.any(False), "first": ranks.broadcast(rank)}
    results["share"] = ranks.share(range(8))
    results["unshare"] = ranks.unshare([10 * item for item in results["share"]])
    results["by_first"] = ranks.by_first(lambda: f"rank {rank}")

    def refuse(at: int) -> None:
        if rank == at:
            raise DataError("it is broken", expected="whole", fix="mend it")

    for name, work in (
        ("first refuses", lambda: ranks.by_first(lambda: refuse(0))),
        ("another refuses", lambda: ranks.by_each(lambda: refuse(2))),
    ):
        try:
            work()
        except DataError as error:
            results[name] = str(error)
    out.with_name(f"{rank}.json").write_text(json.dumps(results))
    ranks.leave()


def test_three_ranks_share_exchange_and_refuse_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medcodi.distributed"])
    members = [context.Process(target=_rank, args=(rank, free_port(), tmp_path / "x")) for rank in range(3)]
    for member in members:
        member.start()
    for member in members:
        member.join(90)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert [each["share"] for each in results] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    for each in results:
        assert each["any"] and not each["none"] and each["first"] == 0 and each["by_first"] == "rank 0"
        assert each["unshare"] == [0, 10, 20, 30, 40, 50, 60, 70]
        assert each["first refuses"] == "it is broken. Expected whole. Fix: mend it."
        assert each["another refuses"] == "rank 2: it is broken. Expected whole. Fix: mend it."
