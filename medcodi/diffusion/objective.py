"""Forward process, training target and error of a denoiser (Ho et al., 2020; v: Salimans & Ho, 2022)."""

from __future__ import annotations

from typing import Literal

from diffusers import DDPMScheduler
from torch import Tensor

from medcodi.config import Count, config


@config
class NoiseScheduleConfig:
    """Forward process. The defaults are the paper's: 1000 steps, scaled-linear 0.00085 -> 0.012, eps."""

    num_train_timesteps: Count = 1000  # timesteps of the forward process
    beta_start: float = 0.00085  # variance of the noise added at the first step
    beta_end: float = 0.012  # variance of the noise added at the last step
    # how beta rises between them
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"  # what denoisers predict: the noise, or v

    def __post_init__(self) -> None:
        if not 0 < self.beta_start < self.beta_end < 1:
            raise ValueError(f"betas must rise within (0, 1), got {self.beta_start} -> {self.beta_end}")

    def build(self) -> DDPMScheduler:
        """The forward process as a ``diffusers`` scheduler."""
        return DDPMScheduler(
            num_train_timesteps=self.num_train_timesteps,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            beta_schedule=self.beta_schedule,
            prediction_type=self.prediction_type,
            clip_sample=False,
        )


def add_noise(schedule: DDPMScheduler, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps, for ``t`` ``[B]``."""
    return schedule.add_noise(x0, noise, t)  # pyright: ignore[reportArgumentType]


def training_target(schedule: DDPMScheduler, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Eps itself, or v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x0."""
    if schedule.config["prediction_type"] == "v_prediction":
        return schedule.get_velocity(x0, noise, t)  # pyright: ignore[reportArgumentType]
    return noise


def timesteps_from_uniform(u: Tensor, num_train_timesteps: int) -> Tensor:
    """Uniform numbers in [0, 1) -> timesteps 0..num_train_timesteps-1, ``long``."""
    return (u * num_train_timesteps).long().clamp_(max=num_train_timesteps - 1)


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row: ``[B, ...]``, ``[B, ...]`` -> float32 ``[B]``."""
    return (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
