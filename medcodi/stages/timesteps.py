"""Timesteps of a step, and the draws of a validation: stratified, so that every bucket of t has equally many rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from medcodi.diffusion.objective import timesteps_from_uniform
from medcodi.randomness import StepRandomness
from medcodi.stages.tally import tally

NUM_BUCKETS = 10
TIMES = "t"  # timesteps are drawn under this name, or "t/<target>"


@dataclass(frozen=True, kw_only=True)
class ValidationRandomness(StepRandomness):
    """The draws of a validation, the same every time: timesteps go round the buckets, choices go round in turn.

    Attributes:
        positions: Of each row among all rows of the validation; row i draws its timesteps from bucket i mod 10.
        turn: Which of its kinds of step a stage takes.
    """

    positions: tuple[int, ...]
    turn: int = 0

    @property
    def buckets(self) -> Tensor:
        """Bucket of each row: int64 ``[B]``."""
        return torch.tensor(self.positions, dtype=torch.long) % NUM_BUCKETS

    def uniform(self, what: str, num: int = 1) -> Tensor:
        """As in training, but timesteps lie in the row's bucket."""
        drawn = super().uniform(what, num)
        timed = what == TIMES or what.startswith(f"{TIMES}/")
        return (self.buckets[:, None] + drawn) / NUM_BUCKETS if timed else drawn

    def choice(self, what: str, num: int) -> int:
        """The next in turn."""
        return self.turn % num


def draw_timesteps(randomness: StepRandomness, what: str, num_train_timesteps: int) -> Tensor:
    """Timesteps ``[B]`` in 0..num_train_timesteps-1, uniform, on the CPU; ``what`` is ``"t"`` or ``"t/<target>"``."""
    return timesteps_from_uniform(randomness.uniform(what)[:, 0], num_train_timesteps)


def bucket_names(num_train_timesteps: int) -> list[str]:
    """``"t/000-099"`` and so on: what each bucket holds."""
    edges = [-(-bucket * num_train_timesteps // NUM_BUCKETS) for bucket in range(NUM_BUCKETS + 1)]
    return [f"{TIMES}/{first:03d}-{after - 1:03d}" for first, after in pairwise(edges)]


def tally_timesteps(
    randomness: StepRandomness, values: Tensor, weights: Tensor, num_train_timesteps: int, name: str
) -> dict[str, Tensor]:
    """Sums of the rows of each bucket, ``"t/000-099/<name>"`` and so on, in a validation; nothing in training."""
    if not isinstance(randomness, ValidationRandomness):
        return {}
    names = [f"{bucket}/{name}" for bucket in bucket_names(num_train_timesteps)]
    return tally(values, weights, randomness.buckets, names)
