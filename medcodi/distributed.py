"""The processes of a run: who started us, which rank this is, and small agreements between ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from medcodi.errors import TrainingError, first_line

TIMEOUT = timedelta(minutes=30)


def launcher(environment: Mapping[str, str]) -> str:
    """Who started this process: ``deepspeed``, ``torchrun`` (anything that sets RANK and WORLD_SIZE) or ``python``."""
    if "TORCHELASTIC_RUN_ID" not in environment and {"CROSS_RANK", "LOCAL_SIZE"} <= set(environment):
        return "deepspeed"  # deepspeed.launcher.launch sets these two, torchrun neither
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        return "deepspeed"
    return "torchrun" if {"RANK", "WORLD_SIZE"} <= set(environment) else "python"


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: From 0.
        world_size: How many there are.
        device: Where this one computes.
        control: CPU group for agreements, so that they never wait for the accelerator; None when alone.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
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
        """True on every rank if ``flag`` is on one."""
        if self.world_size == 1:
            return flag
        shared = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self.control)
        return bool(shared.item())

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value`` (picklable, small), in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's ``value`` (picklable, small)."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def leave(self) -> None:
        """Take the process groups down."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def choose_device(local_rank: int) -> torch.device:
    """The accelerator of this local rank, or the CPU."""
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


def join_processes(environment: Mapping[str, str] = os.environ, timeout: timedelta = TIMEOUT) -> Processes:
    """Find out which process this is and join the others, by the variables that launchers set.

    Args:
        environment: Holds these variables.
        timeout: Longest wait for the others in one exchange.

    Raises:
        TrainingError: If a variable is missing or no GPU is left for this process.
    """
    if launcher(environment) == "python":
        return Processes(device=choose_device(0))
    device = choose_device(int(environment.get("LOCAL_RANK", "0")))
    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if not dist.is_initialized():
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise TrainingError(
                f"RANK is set, but {' and '.join(missing)} not",
                expected="all variables of a launcher, or none",
                fix="start with torchrun or deepspeed, or unset RANK and WORLD_SIZE",
            )
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timeout)
        except (dist.DistStoreError, dist.DistNetworkError) as error:
            raise TrainingError(
                f"rank {rank} of {world_size} did not find the others at {environment['MASTER_ADDR']}:"
                f"{environment['MASTER_PORT']} ({first_line(error)[:200]})",
                expected=f"all of them within faults.exchange_minutes = {timeout.total_seconds() / 60:g}",
                fix="see which rank did not start, and whether the machines reach each other; start all of them again",
            ) from error
    if world_size == 1:
        return Processes(device=device)
    return Processes(rank, world_size, device, dist.new_group(backend="gloo", timeout=timeout))
