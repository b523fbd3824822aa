"""Forward process, training target and error of a denoiser (Ho et al., 2020; v: Salimans & Ho, 2022), and of a distilled student.

Every forward process is a path x_t = a_t x0 + s_t eps over integer timesteps, 0 almost clean: that of DDPM, or the straight path of flow
matching (Lipman et al., 2023, arXiv 2210.02747) with the shifted schedule of Esser et al., 2024 (arXiv 2403.03206).

A student samples in few steps without guidance (Salimans & Ho, 2022, arXiv 2202.00512; Meng et al., 2023, arXiv 2210.03142): one of its steps
is trained to arrive where M guided steps of the teacher arrive. Both take DDIM steps (Song et al., 2021, eq. 12, eta = 0) on trailing
timesteps: the student K of them, the teacher K M.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from pydantic import Field
from torch import Tensor

from medcodi.config import Count, Finite, config

Schedule = DDPMScheduler | FlowMatchEulerDiscreteScheduler
CLEAN = -1  # the timestep after the last: no noise is left


@config
class NoiseScheduleConfig:
    """Forward process. The defaults are the paper's: 1000 steps, scaled-linear 0.00085 -> 0.012, eps."""

    num_train_timesteps: Count = 1000  # timesteps of the forward process
    beta_start: float = 0.00085  # variance of the noise added at the first step
    beta_end: float = 0.012  # variance of the noise added at the last step
    # how beta rises between them
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    # what denoisers predict: the noise, v, or the velocity eps - x0 of the straight path, which has no betas
    prediction_type: Literal["epsilon", "v_prediction", "velocity"] = "epsilon"
    # velocity only: s_t = shift u / (1 + (shift - 1) u), u = (t + 1) / num_train_timesteps; above 1, more of the timesteps are noisy
    shift: Annotated[Finite, Field(exclude_if=lambda value: value == 1.0)] = 1.0  # left out of files where it is 1

    def __post_init__(self) -> None:
        if not 0 < self.beta_start < self.beta_end < 1:
            raise ValueError(f"betas must rise within (0, 1), got {self.beta_start} -> {self.beta_end}")
        if self.shift <= 0 or (self.shift != 1 and self.prediction_type != "velocity"):
            raise ValueError(
                f"shift is {self.shift} with prediction_type: {self.prediction_type}, expected a positive number with velocity, "
                "and 1 with the others, whose schedule is that of the betas"
            )

    def build(self) -> Schedule:
        """The forward process as a ``diffusers`` scheduler."""
        if self.prediction_type == "velocity":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.num_train_timesteps, shift=self.shift)
        return DDPMScheduler(
            num_train_timesteps=self.num_train_timesteps,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            beta_schedule=self.beta_schedule,
            prediction_type=self.prediction_type,
            clip_sample=False,
        )


def prediction_type(schedule: Schedule) -> str:
    """The quantity that denoisers predict: see :class:`NoiseScheduleConfig`."""
    return "velocity" if isinstance(schedule, FlowMatchEulerDiscreteScheduler) else schedule.config["prediction_type"]


def path_scales(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """a_t and s_t of x_t = a_t x0 + s_t eps at timesteps ``[B]``, shaped to be multiplied with ``like``; 1 and 0 at :data:`CLEAN`.

    DDPM: sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t). Straight path: 1 - s_t and s_t.
    """
    shape = (-1, *(1,) * (like.dim() - 1))
    if isinstance(schedule, FlowMatchEulerDiscreteScheduler):
        # The scheduler lists its noise levels from the noisiest down; CLEAN is the last.
        sigmas = torch.as_tensor(schedule.sigmas).flip(0)
        s = torch.cat([sigmas, torch.zeros(1)]).to(like.device)[t].view(shape)
        return 1 - s, s
    alpha_bar = torch.cat([schedule.alphas_cumprod, torch.ones(1)]).to(like.device)[t]  # CLEAN is the last
    return alpha_bar.sqrt().view(shape), (1 - alpha_bar).sqrt().view(shape)


def add_noise(schedule: Schedule, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = a_t x0 + s_t eps, for ``t`` ``[B]``."""
    if isinstance(schedule, FlowMatchEulerDiscreteScheduler):
        a, s = path_scales(schedule, t, x0)
        return a * x0 + s * noise
    return schedule.add_noise(x0, noise, t)  # pyright: ignore[reportArgumentType]


def training_target(schedule: Schedule, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Eps itself, v = a_t eps - s_t x0, or the velocity d x_t / d s_t = eps - x0."""
    if isinstance(schedule, FlowMatchEulerDiscreteScheduler):
        return noise - x0
    if schedule.config["prediction_type"] == "v_prediction":
        return schedule.get_velocity(x0, noise, t)  # pyright: ignore[reportArgumentType]
    return noise


def timesteps_from_uniform(u: Tensor, num_train_timesteps: int) -> Tensor:
    """Uniform numbers in [0, 1) -> timesteps 0..num_train_timesteps-1, ``long``."""
    return (u * num_train_timesteps).long().clamp_(max=num_train_timesteps - 1)


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row: ``[B, ...]``, ``[B, ...]`` -> float32 ``[B]``."""
    return (prediction.float() - target.float()).square().flatten(1).mean(dim=1)


def min_snr_weight(schedule: Schedule, t: Tensor, gamma: float) -> Tensor | None:
    """Weight of each row's :func:`denoising_error`, ``[B]``; None for a gamma of 0: all rows weigh the same.

    The error of the x0 that a prediction implies is weighted by min(SNR, gamma) (Hang et al., 2023, arXiv 2303.09556). It is c^2 times the
    error of the prediction itself, so that has weight min(SNR, gamma) / SNR (eps), min(SNR, gamma) / (SNR + 1) (v) or min(SNR, gamma) s^2
    (velocity).
    """
    if not gamma:
        return None
    a, s = path_scales(schedule, t, t)
    c = s / a if prediction_type(schedule) == "epsilon" else s
    return (a / s).square().clamp(max=gamma) * c.square()


# ---- distillation: where one step of a student should arrive ---------------------------------------------------------
def trailing_timesteps(num_train_timesteps: int, num_steps: int) -> Tensor:
    """The timesteps of a sampler of ``num_steps`` steps, first to last, and :data:`CLEAN`: int64 ``[num_steps + 1]``."""
    steps = torch.arange(num_steps, 0, -1) * num_train_timesteps / num_steps
    return torch.cat([steps.round().long() - 1, torch.tensor([CLEAN])])


def ddim_step(schedule: Schedule, prediction: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
    """The latents ``[B, ...]`` at timesteps ``t_next`` ``[B]``, from ``z`` at ``t`` and the prediction there (eps, v or velocity)."""
    (a, s), (a_next, s_next) = path_scales(schedule, t, z), path_scales(schedule, t_next, z)
    if prediction_type(schedule) == "velocity":
        return z + (s_next - s) * prediction  # Euler's step: the same on a straight path
    if schedule.config["prediction_type"] == "v_prediction":
        clean, noise = a * z - s * prediction, a * prediction + s * z
    else:
        clean, noise = (z - s * prediction) / a, prediction
    return a_next * clean + s_next * noise


def prediction_of_step(schedule: Schedule, z: Tensor, t: Tensor, t_next: Tensor, z_next: Tensor) -> Tensor:
    """The prediction (eps, v or velocity) with which one :func:`ddim_step` goes from ``z`` to ``z_next``: its inverse, ``[B, ...]``."""
    (a, s), (a_next, s_next) = path_scales(schedule, t, z), path_scales(schedule, t_next, z)
    if prediction_type(schedule) == "velocity":
        return (z_next - z) / (s_next - s)
    if schedule.config["prediction_type"] == "v_prediction":
        return (z_next - (a_next * a + s_next * s) * z) / (s_next * a - a_next * s)
    return (z_next - a_next / a * z) / (s_next - a_next * s / a)


def teacher_prediction(
    schedule: Schedule,
    denoise: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    step: Tensor,
    num_steps: int,
    num_substeps: int,
) -> Tensor:
    """The student's target: the prediction that takes it in one step as far as ``num_substeps`` steps take the teacher.

    Args:
        schedule: The forward process.
        denoise: The guided teacher: latents and timesteps ``[B]`` -> prediction.
        z: Noisy latents ``[B, ...]`` at the student's timestep.
        step: int64 ``[B]``: which of the student's steps each row is at, 0 is the first.
        num_steps: Steps of the student.
        num_substeps: Steps of the teacher for each of them.
    """
    timesteps = trailing_timesteps(schedule.config["num_train_timesteps"], num_steps * num_substeps).to(z.device)
    first = step * num_substeps
    z_next = z
    for index in range(num_substeps):
        t, t_next = timesteps[first + index], timesteps[first + index + 1]
        z_next = ddim_step(schedule, denoise(z_next, t), t, t_next, z_next)
    return prediction_of_step(schedule, z, timesteps[first], timesteps[first + num_substeps], z_next)
