"""Tensors of a published checkpoint that follow from something else: compared with what they follow from, then made anew."""

from __future__ import annotations

import numpy as np
import torch

from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.errors import CheckpointError, ConfigError
from medcodi.interop.xgem_keys import TIED, TIED_TO
from medcodi.interop.xgem_source import Checkpoint


def noise_schedule(checkpoint: Checkpoint) -> NoiseScheduleConfig:
    """The noise schedule that the checkpoint's buffers hold, or the published one where it has none.

    Raises:
        CheckpointError: If the buffers are no scaled-linear schedule.
    """
    schedule = NoiseScheduleConfig()
    if "betas" in checkpoint.tensors:
        betas = checkpoint.tensors["betas"].read().double().flatten()
        try:
            schedule = NoiseScheduleConfig(
                num_train_timesteps=len(betas),
                beta_start=float(f"{betas[0]:.7g}"),  # as it was written before it became float32
                beta_end=float(f"{betas[-1]:.7g}"),
            )
        except (ConfigError, IndexError) as error:
            raise CheckpointError(f"the checkpoint's betas are no noise schedule: {error}") from None
    steps = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.num_train_timesteps) ** 2
    expected = {"betas": steps, "alphas_cumprod": np.cumprod(1.0 - steps)}
    for key in expected.keys() & checkpoint.tensors.keys():
        found = checkpoint.tensors[key].read().double().flatten().numpy()
        if found.shape != expected[key].shape or not np.allclose(found, expected[key], rtol=1e-4, atol=0.0):
            raise CheckpointError(
                f"{key} is not that of a scaled-linear schedule from {schedule.beta_start} to {schedule.beta_end}",
                expected="the published noise schedule",
                fix="fetch the checkpoint again",
            )
    return schedule


def check_derived(checkpoint: Checkpoint) -> None:
    """Compare causal masks, position numbers and the tied output matrix with what the layout says they are.

    Raises:
        CheckpointError: If one differs: the checkpoint would behave otherwise than the model it becomes.
    """
    for key, stored in checkpoint.tensors.items():
        if key.endswith(".attn.bias") and key.startswith("optimus.decoder."):
            _check(key, bool(torch.equal(stored.read().float(), torch.ones(stored.shape).tril())), "a causal mask")
        elif key.endswith(".position_ids"):
            numbers = stored.read().flatten()
            _check(key, torch.equal(numbers.long(), torch.arange(len(numbers))), "0, 1, 2 and so on")
    if TIED in checkpoint.tensors and TIED_TO in checkpoint.tensors:
        tied, original = checkpoint.tensors[TIED], checkpoint.tensors[TIED_TO]
        same_place = (tied.file, tied.offset) == (original.file, original.offset)
        is_same = tied.shape == original.shape and (same_place or torch.equal(tied.read(), original.read()))
        _check(TIED, is_same, f"the same numbers as {TIED_TO}, to which it is tied")


def _check(key: str, holds: bool, expected: str) -> None:
    if not holds:
        raise CheckpointError(f"{key} is not what the layout says", expected=expected, fix="fetch the checkpoint again")
