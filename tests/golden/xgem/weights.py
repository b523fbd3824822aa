"""The published model at a small size, as the fixture's authors filled it: numbers from a counter, equal to the bit everywhere.

Each tensor has a stream of its own. The n-th number of a stream is SplitMix64 at counter ``start + n * golden ratio``; its
four 16-bit quarters are added, which is about normal, and scaled to the tensor's mean and spread.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
_GOLDEN_RATIO, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_QUARTER = np.uint64(0xFFFF)
_CENTRE = 2.0 * (2**16 - 1)  # mean of the sum of four uniform 16-bit integers, and its spread:
_SPREAD = np.sqrt((65536.0**2 - 1.0) / 3.0)


def published_weights(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint that ``folder/keys.csv`` lists, in its order; tied ones are one array."""
    schedule = noise_schedule()
    weights: dict[str, np.ndarray] = {}
    with (folder / "keys.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            weights[row["key"]] = _tensor(row, seed, schedule, weights)
    return weights


def _tensor(
    row: dict[str, str], seed: int, schedule: dict[str, np.ndarray], before: dict[str, np.ndarray]
) -> np.ndarray:
    shape = tuple(int(size) for size in row["shape"].split("x")) if row["shape"] else ()
    match row["kind"]:
        case "param":
            spread = float(row["mean"]) + float(row["std"]) * _about_normal(f"{seed}:{row['key']}", int(np.prod(shape)))
            return spread.astype(np.float32).reshape(shape)
        case "tied":
            return before[row["tied_to"]]
        case "buffer_schedule":
            return schedule[row["key"]]
        case "buffer_arange":
            return np.arange(shape[-1], dtype=np.int64).reshape(shape)
        case "buffer_tril":
            return np.tril(np.ones(shape, np.float32))
        case kind:
            raise ValueError(f"{row['key']} is of kind {kind!r}")


def _about_normal(stream: str, count: int) -> np.ndarray:
    start = np.frombuffer(hashlib.sha256(stream.encode()).digest()[:8], "<u8")[0]
    with np.errstate(over="ignore"):
        mixed = start + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN_RATIO
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
        mixed ^= mixed >> np.uint64(31)
    total = sum((mixed >> np.uint64(shift)) & _QUARTER for shift in (0, 16, 32, 48))
    return (np.asarray(total).astype(np.float64) - _CENTRE) / _SPREAD


def noise_schedule(start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> dict[str, np.ndarray]:
    """The twelve schedule buffers of the published model (Ho et al., 2020, equations 4 to 7)."""
    beta = np.linspace(start**0.5, end**0.5, steps, dtype=np.float64) ** 2
    kept = np.cumprod(1.0 - beta)
    before = np.concatenate([[1.0], kept[:-1]])
    variance = beta * (1.0 - before) / (1.0 - kept)
    buffers = {
        "betas": beta,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(kept),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - kept),
        "log_one_minus_alphas_cumprod": np.log(1.0 - kept),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / kept),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / kept - 1.0),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": beta * np.sqrt(before) / (1.0 - kept),
        "posterior_mean_coef2": (1.0 - before) * np.sqrt(1.0 - beta) / (1.0 - kept),
    }
    return {name: values.astype(np.float32) for name, values in buffers.items()}
