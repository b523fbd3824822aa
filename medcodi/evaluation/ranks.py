"""The processes that share an evaluation: which blocks of studies are whose, and small agreements between them.

A block is the same studies whatever the number of ranks, and one rank does it whole, so its bytes are the same too. What ranks
make for each other goes through the folder of the evaluation; only small things go through gloo.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from medcodi.errors import ConfigError

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=12)  # the first rank scores while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among those of the evaluation.

    Attributes:
        rank: From 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """True on the rank that scores, writes and prints."""
        return self.rank == 0

    def share(self, blocks: Sequence[T]) -> list[T]:
        """This rank's blocks: every ``world``-th one."""
        return list(blocks[self.rank :: self.world])

    def gathered(self, mine: Sequence[T]) -> list[T]:
        """What every rank made of its share, put back into the order of the blocks, on every rank.

        Raises:
            Exception: Of the rank that failed, on every rank, if one handed over an exception.
        """
        if self.world == 1:
            return list(mine)
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, list(mine))
        longest = max(len(part) for part in parts)
        return [part[index] for index in range(longest) for part in parts if index < len(part)]

    def agree(self, value: T) -> list[T]:
        """Every rank's value, in rank order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """Take the group down."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Ranks()


def join_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Join the other processes, by the variables that torchrun, deepspeed and Slurm's scripts set; alone without them.

    Raises:
        ConfigError: If only some of the variables are there, or the others do not come.
    """
    if not {"RANK", "WORLD_SIZE"} <= set(environment) or int(environment["WORLD_SIZE"]) == 1:
        return ALONE
    rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise ConfigError(
            f"RANK is set, but {' and '.join(missing)} not",
            expected="all variables of a launcher, or none",
            fix="start with torchrun or deepspeed, or unset RANK and WORLD_SIZE",
        )
    if not dist.is_initialized():
        try:
            dist.init_process_group("gloo", rank=rank, world_size=world, timeout=LONGEST_WAIT)
        except (dist.DistStoreError, dist.DistNetworkError) as error:
            raise ConfigError(
                f"rank {rank} of {world} did not find the others: {str(error).splitlines()[0][:200]}",
                fix="see which process did not start, and start all of them again",
            ) from error
    return Ranks(rank, world)


def device_of_rank(asked: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The device of this process: what was asked for; without that, with several GPUs, the one of its local rank."""
    if asked is not None or not torch.cuda.is_available():
        return asked
    return f"cuda:{int(environment.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def blocks_of(num_studies: int, block_size: int) -> list[range]:
    """The studies in blocks of ``block_size``, in order; the last may be short."""
    return [range(start, min(start + block_size, num_studies)) for start in range(0, num_studies, block_size)]
