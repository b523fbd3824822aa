"""Randomness as an argument: every draw is keyed, never taken from a global generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medcodi.transfer import to_device

Key = int | str


def seed_from_keys(*keys: Key) -> int:
    """A 63-bit seed that depends on every key and on their order, the same on every machine and Python version."""
    digest = hashlib.blake2b(
        "\x1f".join(f"{type(key).__name__}:{key}" for key in keys).encode(), digest_size=8
    ).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(*keys: Key) -> torch.Generator:
    """A CPU generator seeded by the keys."""
    return torch.Generator().manual_seed(seed_from_keys(*keys))


def numpy_generator(*keys: Key) -> np.random.Generator:
    """A numpy generator seeded by the keys."""
    return np.random.Generator(np.random.Philox(seed_from_keys(*keys)))


def keyed_normal(
    samples: Sequence[tuple[Key, ...]], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise, one independent stream per sample.

    Args:
        samples: One tuple of keys per sample; equal keys give equal noise in any row of the batch.
        shape: Shape of one sample.
        device: Where the result goes; the draw itself is made on the CPU, so every device sees the same noise.

    Returns:
        float32 ``[B, *shape]``.
    """
    rows = [torch.randn(tuple(shape), generator=torch_generator(*keys)) for keys in samples]
    return to_device(torch.stack(rows), device) if rows else torch.empty((0, *shape), device=device)


def keyed_uniform(samples: Sequence[tuple[Key, ...]], num: int = 1) -> Tensor:
    """Uniform numbers in [0, 1), ``num`` for each sample: float64 ``[B, num]`` on the CPU."""
    rows = [torch.rand(num, generator=torch_generator(*keys), dtype=torch.float64) for keys in samples]
    return torch.stack(rows) if rows else torch.empty((0, num), dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class StepRandomness:
    """The randomness of one training step, keyed by (seed, step, sample): independent of batch, rank and order."""

    seed: int  # the run's seed
    step: int  # optimiser step, counted from 0
    samples: tuple[int, ...]  # one key per row of the batch: the sample's index in the dataset

    def keys(self, what: str) -> list[tuple[Key, ...]]:
        """Keys of one named draw, one tuple per row of the batch."""
        return [(what, self.seed, self.step, sample) for sample in self.samples]

    def normal(self, what: str, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Noise named ``what``: float32 ``[B, *shape]``."""
        return keyed_normal(self.keys(what), shape, device)

    def uniform(self, what: str, num: int = 1) -> Tensor:
        """Uniform draws named ``what``: float64 ``[B, num]`` on the CPU."""
        return keyed_uniform(self.keys(what), num)

    def choice(self, what: str, num: int) -> int:
        """One of ``num``, uniformly, that every rank and row of this step shares."""
        return int(torch.randint(num, (), generator=self.shared_generator(what)))

    def shared_generator(self, what: str) -> torch.Generator:
        """A generator that every rank and row of this step shares."""
        return torch_generator(what, self.seed, self.step)
