"""Training runs in processes of their own, which can be killed: forked from a server that has imported everything once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from medcodi.errors import MedCoDiError
from medcodi.training.config import TrainConfig

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "medcodi.training.loop",
        "medcodi.training.deepspeed.engine",
        "medcodi.stages.align",
        "medcodi.stages.autoencode",
        "medcodi.stages.diffuse",
        "medcodi.stages.join",
        "medcodi.data.sources.phantom",
        "torch.distributed",
        "deepspeed",
    ]
)
KILLED = -signal.SIGKILL


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def built(op: str) -> bool:
    """Whether DeepSpeed has built one of its ops on this machine: a test does not wait for a compiler."""
    from torch.utils import cpp_extension

    return Path(cpp_extension._get_build_directory(op, verbose=False), f"{op}.so").exists()


def run(
    config: TrainConfig,
    *,
    ranks: int = 1,
    resume: str | None = None,
    kill_after: int | None = None,
    kill_at: str | None = None,
    timeout_s: float = 1100,
) -> list[int]:
    """Train, each rank in its own process; exit codes by rank, -9 where a rank was killed.

    Args:
        config: The run.
        ranks: How many processes; one alone is started as by plain python, unless the engine is DeepSpeed.
        resume: As for ``train``.
        kill_after: SIGKILL every rank as soon as the checkpoint of this step is there.
        kill_at: The same, as soon as a file of this pattern is in the run's folder.
        timeout_s: After so long all are killed, and the test fails.
    """
    processes = started(config, ranks=ranks, resume=resume, kill_after=kill_after, kill_at=kill_at)
    return ended(config, processes, timeout_s)


def started(
    config: TrainConfig,
    *,
    ranks: int = 1,
    resume: str | None = None,
    kill_after: int | None = None,
    kill_at: str | None = None,
) -> list[Any]:
    """The processes of a run that has begun, by rank."""
    kill_at = kill_at if kill_after is None else f"checkpoints/step-{kill_after:08d}"
    alone = ranks == 1 and config.engine.name != "deepspeed"
    shared = {} if alone else {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    processes = []
    for rank in range(ranks):
        environment = {**shared, **({} if alone else {"RANK": str(rank), "LOCAL_RANK": str(rank)})}
        arguments = (config, resume, environment, kill_at, f"{config.out}.rank{rank}.txt")
        processes.append(FORKS.Process(target=_rank, args=arguments, daemon=not config.num_workers))
        processes[-1].start()
    return processes


def ended(config: TrainConfig, processes: list[Any], timeout_s: float = 300) -> list[int]:
    """Wait for the processes of a run; exit codes by rank."""
    ranks = len(processes)
    deadline = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of {ranks} ranks ran past {timeout_s} s\n" + said(config, ranks)
    return [int(process.exitcode or 0) for process in processes]


def finished(config: TrainConfig, **options: Any) -> Path:
    """Train to the end; the run's folder."""
    codes = run(config, **options)
    assert not any(codes), f"exit codes {codes}\n" + said(config, len(codes))
    return Path(config.out)


def said(config: TrainConfig, ranks: int) -> str:
    """What the ranks printed, the end of it."""
    files = [Path(f"{config.out}.rank{rank}.txt") for rank in range(ranks)]
    return "\n".join(f"-- {file.name}\n{file.read_text()[-3000:]}" for file in files if file.exists())


def _rank(
    config: TrainConfig, resume: str | None, environment: dict[str, str], kill_at: str | None, output: str
) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment})
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    import torch

    from medcodi.training.loop import train

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as plain python starts the workers that read data
    if kill_at is not None:
        die_when_there(Path(config.out), kill_at)
    code = 0
    try:
        train(config, resume)
    except MedCoDiError as error:  # as the command line does
        traceback.print_exc()
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def die_when_there(folder: Path, pattern: str) -> None:
    """SIGKILL to this process as soon as a file of this pattern is there; a thread of its own sees to it, however busy others are."""

    def wait() -> None:
        while not any(folder.glob(pattern)):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


# ---- what a run left -----------------------------------------------------------------------------------------------
def log(folder: Path) -> list[dict[str, Any]]:
    """Lines of the log without what depends on the machine."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timing"} for line in lines]


def curve(folder: Path, name: str = "loss") -> list[float]:
    """One figure, line by line."""
    return [line[name] for line in log(folder) if name in line]


def state(folder: Path, step: int) -> dict[str, Any]:
    """A checkpoint's plain values: step, updates, identity, unfinished means."""
    return json.loads((folder / f"checkpoints/step-{step:08d}/state.json").read_text())


def tensors(folder: Path, step: int) -> dict[str, str]:
    """Checksums of a checkpoint's tensors."""
    files = json.loads((folder / f"checkpoints/step-{step:08d}/manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}
