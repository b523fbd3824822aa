"""The ranks of a job: who started this process, which one it is, and small exchanges between them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from medcodi.errors import MedCoDiError, TrainingError, first_line

TIMEOUT = timedelta(minutes=30)
PATIENCE_S = 10.0  # for which another rank lets the first one print a refusal

T = TypeVar("T")
_ABSENT = object()
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun names it to every process, and reads it when one fails


def launcher(environment: Mapping[str, str]) -> str:
    """Who started this process: ``deepspeed``, ``torchrun`` (anything that sets RANK and WORLD_SIZE) or ``python``."""
    if "TORCHELASTIC_RUN_ID" not in environment and {"CROSS_RANK", "LOCAL_SIZE"} <= set(environment):
        return "deepspeed"  # deepspeed.launcher.launch sets these two, torchrun neither
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        return "deepspeed"
    return "torchrun" if {"RANK", "WORLD_SIZE"} <= set(environment) else "python"


def printed_elsewhere(error: MedCoDiError, environment: Mapping[str, str] = os.environ) -> bool:
    """True if the first rank, or torchrun at its end, prints this refusal, so that it is printed once.

    Before ranks have joined, none knows of the others. They are refused alike then, and a launcher ends all of them once the
    first has ended; another rank waits for that, and prints what the first one does not have.
    """
    if environment.get("RANK", "0") == "0":
        return error.printed_by_first or _left_to_torchrun(error, environment)
    if not error.printed_by_first or _ERROR_FILE in environment:  # torchrun reports the process that ended first
        time.sleep(PATIENCE_S)
    own = Path(
        environment.get(_ERROR_FILE) or "none"
    )  # in a folder beside the first rank's, where that is on this machine
    return error.printed_by_first or (own.parent.parent / "0" / own.name).is_file()


def _left_to_torchrun(error: MedCoDiError, environment: Mapping[str, str]) -> bool:
    """Leave the refusal in the file from which torchrun's report takes it: the last lines that a user sees.

    torchrun ends with a trace of its own whatever a process does; without such a file it says nothing of the reason.
    """
    path = environment.get(_ERROR_FILE)
    restarts, most = (int(environment.get(f"TORCHELASTIC_{key}", "0")) for key in ("RESTART_COUNT", "MAX_RESTARTS"))
    if not path or restarts < most:  # processes that it starts once more are in no report
        return False
    text = f"{type(error).__name__}: {error}".replace(" Expected ", "\nExpected ").replace(" Fix: ", "\nFix: ")
    report = {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}
    try:
        Path(path).write_text(json.dumps({"message": report}), encoding="utf-8")
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Ranks:
    """This process among those of a job."""

    rank: int = 0  # from 0
    world_size: int = 1  # number of ranks
    device: torch.device = torch.device("cpu")  # where this one computes
    # CPU group for small exchanges, so that they never wait for the accelerator; None: the default group
    control: Any = None

    @property
    def is_first(self) -> bool:
        """True on the rank that writes and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world_size > 1:
            dist.barrier(group=self.control)

    def any(self, flag: bool) -> bool:
        """True on every rank if ``flag`` is true on at least one."""
        if self.world_size == 1:
            return flag
        shared = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self.control)
        return bool(shared.item())

    def gather(self, value: T) -> list[T]:
        """Every rank's ``value`` (picklable, small), in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, value: Any) -> Any:
        """The first rank's ``value`` (picklable, small), on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items: every ``world_size``-th one."""
        return list(items[self.rank :: self.world_size])

    def unshare(self, results: Sequence[T]) -> list[T]:
        """Every rank's results of its :meth:`share`, in the order of the items, on every rank."""
        rows: Any = zip_longest(*self.gather(list(results)), fillvalue=_ABSENT)
        return [result for result in chain.from_iterable(rows) if result is not _ABSENT]

    # ---- a refusal on one rank is a refusal on all -------------------------------------------------------------------
    def by_first(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the first rank alone; its result (picklable, small), or its refusal, on every rank."""
        outcome = _attempt(work) if self.is_first else None
        result, refusal = self.broadcast(outcome)
        if refusal is not None:
            raise refusal
        return result

    def by_each(self, work: Callable[[], Any]) -> None:
        """Run ``work`` on every rank; a refusal of one is raised on all, so that none waits for a rank that stopped."""
        for rank, refusal in enumerate(self.gather(_attempt(work)[1])):
            if refusal is not None:
                if self.world_size > 1:  # name the rank
                    failed, expected, fix = f"rank {rank}: {refusal.failed}", refusal.expected, refusal.fix
                    MedCoDiError.__init__(refusal, failed, expected=expected, fix=fix)
                raise refusal

    def leave(self) -> None:
        """Take the process groups down."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Ranks()


def _attempt(work: Callable[[], T]) -> tuple[T | None, MedCoDiError | None]:
    try:
        return work(), None
    except MedCoDiError as error:
        return None, error


def rank_device(requested: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The device on which this process generates: the requested one; else the GPU of its local rank, or the CPU."""
    if requested is not None:
        return requested
    if not torch.cuda.is_available():
        return "cpu"
    if "LOCAL_RANK" not in environment and torch.cuda.device_count() == 1:
        return "cuda"
    return f"cuda:{int(environment.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def choose_device(local_rank: int) -> torch.device:
    """The accelerator on which this local rank trains, which must be its own; or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"local rank {local_rank} has no GPU of its own, {torch.cuda.device_count()} visible",
            expected="one GPU for each process",
            fix="start fewer processes, or set CUDA_VISIBLE_DEVICES='' to train on the CPU",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def join_ranks(
    environment: Mapping[str, str] = os.environ,
    timeout: timedelta = TIMEOUT,
    *,
    computing: bool = True,
    error: type[MedCoDiError] = TrainingError,
) -> Ranks:
    """Join the other processes of this job, by the variables that launchers set; alone without them.

    Args:
        environment: Holds these variables.
        timeout: Longest wait for the others in one exchange.
        computing: Choose this rank's accelerator; otherwise ranks exchange small values over gloo, and it stays the CPU.
        error: Class of the refusals: a variable is missing, another rank does not come, or no GPU is left.
    """
    if launcher(environment) == "python":
        return Ranks(device=choose_device(0)) if computing else ALONE
    # Which rank this is, and where it computes.
    device = choose_device(int(environment.get("LOCAL_RANK", "0"))) if computing else torch.device("cpu")
    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if world_size == 1 and not computing:
        return ALONE
    # Find the others.
    if not dist.is_initialized():
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise error(
                f"RANK is set, but {' and '.join(missing)} not",
                expected="all variables of a launcher, or none",
                fix="start with torchrun or deepspeed, or unset RANK and WORLD_SIZE",
            )
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timeout)
        except (dist.DistStoreError, dist.DistNetworkError) as cause:
            minutes = f"{timeout.total_seconds() / 60:g}"
            within = f"faults.exchange_minutes = {minutes}" if computing else f"{minutes} minutes"
            raise error(
                f"rank {rank} of {world_size} did not find the others at {environment['MASTER_ADDR']}:"
                f"{environment['MASTER_PORT']} ({first_line(cause)[:200]})",
                expected=f"all of them within {within}",
                fix="see which rank did not start, and whether the machines reach each other; start all of them again",
            ) from cause
    if world_size == 1:
        return Ranks(device=device)
    control = dist.new_group(backend="gloo", timeout=timeout) if computing else None
    return Ranks(rank, world_size, device, control)
