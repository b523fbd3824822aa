"""Sampling several targets together, on the samplers of ``diffusers``: at one t, or each at its own; and editing latents.

An edit is sampled beside its noised original z*_t = a_t z0 + s_t eps, with one eps for all t: it starts there, and each step adds only the
difference that the new prompts make, z_s = step(z_t; new) + z*_s - step(z*_t; original). This is the consistent inversion of Xu et al.
(2024, "Inversion-free image editing"). So the same prompts change nothing, at any strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

from medcodi.diffusion.guidance import Denoise, Latents
from medcodi.diffusion.objective import NoiseScheduleConfig, path_scales, trailing_timesteps
from medcodi.errors import PromptError, one_of
from medcodi.randomness import Key, keyed_normal, torch_generator


@dataclass(frozen=True)
class Sampler:
    """A ``diffusers`` scheduler and the settings that make it the sampler of this name."""

    scheduler: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    step_settings: Mapping[str, Any] = field(default_factory=dict)
    # further settings for models that predict the velocity; None: it is not for them
    velocity: Mapping[str, Any] | None = None
    noise: bool = True  # whether it is for models that predict eps or v


_TRAILING = {"timestep_spacing": "trailing"}
_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True, **_TRAILING}),
    "ddim-stochastic": Sampler("DDIMScheduler", {"clip_sample": False, **_TRAILING}, {"eta": 1.0}),
    # As the released MedCoDi-M: timesteps count from 0, and the last step, at t = 0, changes nothing.
    "ddim-published": Sampler(
        "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 0},
    ),
    "ddpm": Sampler("DDPMScheduler", {"clip_sample": False, **_TRAILING}),
    "dpm++": Sampler(
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, **_TRAILING},
        velocity=_FLOW,
    ),
    "sde-dpm++": Sampler(
        "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", **_TRAILING}, velocity=_FLOW
    ),
    "unipc": Sampler("UniPCMultistepScheduler", {"solver_order": 2, **_TRAILING}, velocity=_FLOW),
    "deis": Sampler("DEISMultistepScheduler", _TRAILING),
    "euler": Sampler("FlowMatchEulerDiscreteScheduler", velocity={}, noise=False),
}


def check_sampler(name: str, prediction_type: str) -> None:
    """Refuse a sampler that does not exist, or not for this ``prediction_type``, by a PromptError."""
    one_of("sampler", name, SAMPLERS, PromptError)
    velocity = prediction_type == "velocity"
    fitting = [key for key, each in SAMPLERS.items() if (each.velocity is not None if velocity else each.noise)]
    if name not in fitting:
        raise PromptError(
            f"the sampler {name} for a model that predicts {prediction_type}",
            expected="one of " + ", ".join(fitting),
            fix=f"sampler {'euler' if velocity else 'ddim'}, or dpm++ in fewer steps",
        )


def build_scheduler(name: str, schedule: Mapping[str, Any], num_inference_steps: int) -> Any:
    """A fresh scheduler of that sampler, on the noise schedule of a model (the fields of its ``NoiseScheduleConfig``)."""
    check_sampler(name, schedule.get("prediction_type", "epsilon"))
    sampler = SAMPLERS[name]
    limit = schedule["num_train_timesteps"]
    if not 1 <= num_inference_steps <= limit:
        raise PromptError(
            f"num_inference_steps is {num_inference_steps}",
            expected=f"a number from 1 to {limit}",
            fix="20 to 50 steps serve most uses",
        )
    scheduler_class = getattr(diffusers, sampler.scheduler)
    if schedule.get("prediction_type") == "velocity":
        settings = {**sampler.settings, **(sampler.velocity or {})}
        scheduler = scheduler_class(num_train_timesteps=limit, **settings)
        scheduler.set_timesteps(num_inference_steps)
        _put_on_straight_path(scheduler, NoiseScheduleConfig(**schedule), num_inference_steps)
        return scheduler
    scheduler = scheduler_class(**{**schedule, **sampler.settings})
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def _put_on_straight_path(scheduler: Any, schedule: NoiseScheduleConfig, num_inference_steps: int) -> None:
    """Give a scheduler the trailing timesteps of the model, and exactly the noise levels that the model has there."""
    timesteps = trailing_timesteps(schedule.num_train_timesteps, num_inference_steps)
    sigmas = path_scales(schedule.build(), timesteps, timesteps)[1]  # the last is 0, of CLEAN
    # Solvers of higher order divide by 1 - sigma.
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        scheduler.timesteps = timesteps[:-1].float()  # it takes no integers
    else:
        scheduler.timesteps, sigmas = timesteps[:-1], sigmas.clamp(max=1 - 1e-6)
    scheduler.sigmas = sigmas


def sample_jointly(
    denoise: Denoise,
    latent_shapes: Mapping[str, Sequence[int]],  # target -> shape of one latent
    seeds: Sequence[Key],  # one for each sample
    *,
    sampler: str,
    schedule: Mapping[str, Any],
    num_inference_steps: int,
    device: torch.device | str = "cpu",
    start: Latents | None = None,  # the noise [B, *shape] to begin with; None: that of the seeds
    delays: Mapping[str, int] | None = None,  # target -> steps that it waits before its first; None: all share t
    on_step: Callable[[int, int], None] | None = None,  # called with (steps done, all steps)
) -> Latents:
    """Denoise all targets together from noise: target -> clean latents ``[B, *shape]``.

    Every sample has its own streams of noise, keyed by (seed, target), so it does not depend on the batch around it. The
    sampler and its schedule are those of :func:`build_scheduler`. With ``delays``, a target waits as noise at the first t, takes its
    steps, and is then clean at t = 0; the others hear it all the while.
    """
    # Each target has its own scheduler, whose state is its own; generators serve samplers that add noise.
    schedulers = {target: build_scheduler(sampler, schedule, num_inference_steps) for target in latent_shapes}
    generators = {target: [torch_generator("sampler", seed, target) for seed in seeds] for target in latent_shapes}
    latents = {}
    for target, shape in latent_shapes.items():
        keys = [("start", seed, target) for seed in seeds]
        latents[target] = start[target].to(device) if start else keyed_normal(keys, shape, device)

    # Step all of them down the same timesteps, each after its delay.
    timesteps = [int(t) for t in next(iter(schedulers.values())).timesteps]
    delays = {target: (delays or {}).get(target, 0) for target in latent_shapes}
    num_steps = len(timesteps) + max(delays.values())
    for index in range(num_steps):
        own = {target: index - delay for target, delay in delays.items()}  # target -> number of its step
        t = {target: (timesteps[max(step, 0) :] or [0])[0] for target, step in own.items()}
        times = {target: torch.full((len(seeds),), each, device=device) for target, each in t.items()}  # [B], int64
        shared = len(set(t.values())) == 1
        predictions = denoise(dict(latents), next(iter(times.values())) if shared else times)
        # Only targets between their first and last timestep move.
        for target, scheduler in schedulers.items():
            if 0 <= own[target] < len(timesteps):
                latents[target] = take_step(
                    sampler, scheduler, predictions[target], t[target], latents[target], generators[target]
                )
        if on_step is not None:
            on_step(index + 1, num_steps)
    return latents


def take_step(
    sampler: str, scheduler: Any, prediction: Tensor, t: int, latents: Tensor, generators: list[torch.Generator]
) -> Tensor:
    """One step of that sampler's scheduler from ``t``: the next latents ``[B, *shape]``; generators serve those that add noise."""
    keywords = {"generator": generators, **SAMPLERS[sampler].step_settings} if _takes_generator(scheduler) else {}
    timestep = float(t) if scheduler.timesteps.is_floating_point() else t
    return scheduler.step(prediction, timestep, latents, **keywords).prev_sample


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]


# ---- editing: the same steps along a noised original -----------------------------------------------------------------
def check_strength(strength: float) -> None:
    """Refuse a strength outside (0, 1], by a PromptError."""
    if not (math.isfinite(strength) and 0 < strength <= 1):
        raise PromptError(
            f"strength is {strength}",
            expected="a number above 0, and at most 1",
            fix="more changes more: see docs/EDITING.md for the strength that was measured",
        )


def edit_latents(
    denoise: Denoise,
    denoise_original: Denoise,
    original: Latents,
    seeds: Sequence[Key],
    *,
    sampler: str,
    schedule: Mapping[str, Any],
    num_inference_steps: int,
    strength: float,
    on_step: Callable[[int, int], None] | None = None,
) -> Latents:
    """Latents of the edit, target -> ``[B, *shape]``.

    Args:
        denoise: With the new prompts.
        denoise_original: With the prompts that describe the original.
        original: Target -> clean latents z0 ``[B, *shape]``.
        seeds: One for each row; its noise is that of :func:`sample_jointly`.
        sampler: A name in ``SAMPLERS``.
        schedule: The noise schedule of the model, as for :func:`build_scheduler`.
        num_inference_steps: Steps of the whole schedule; the share ``strength`` of them, the last ones, is taken.
        strength: In (0, 1].
        on_step: Called with (steps done, all steps).
    """
    check_strength(strength)
    device = next(iter(original.values())).device
    timesteps = build_scheduler(sampler, schedule, num_inference_steps).timesteps
    first = len(timesteps) - math.ceil(len(timesteps) * strength)
    times = [int(t) for t in timesteps[first:]]

    # Two samplers for each target, which draw the same noise where they draw any; and the noised path of the original.
    def stepper(target: str) -> Callable[..., torch.Tensor]:
        scheduler = build_scheduler(sampler, schedule, num_inference_steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        generators = [torch_generator("sampler", seed, target) for seed in seeds]
        return lambda prediction, t, z: take_step(sampler, scheduler, prediction, t, z, generators)

    steps = {target: (stepper(target), stepper(target)) for target in original}
    noise = {
        target: keyed_normal([("start", seed, target) for seed in seeds], z0.shape[1:], device)
        for target, z0 in original.items()
    }
    forward = NoiseScheduleConfig(**schedule).build()

    def noised(t: int) -> Latents:
        noisy = {}
        for target, z0 in original.items():
            a, s = path_scales(forward, torch.tensor([t]), z0)
            noisy[target] = a * z0 + s * noise[target]
        return noisy

    # Step both down: the original along its path, the edit beside it.
    latents = path = noised(times[0])
    for index, t in enumerate(times):
        rows = torch.full((len(seeds),), t, device=device)
        new, old = denoise(latents, rows), denoise_original(path, rows)
        following = noised(times[index + 1]) if index + 1 < len(times) else original
        # In this order, prompts that are equal give the path itself, to the bit: a rounding would grow with every step.
        latents = {
            target: following[target]
            + (edit_step(new[target], t, latents[target]) - path_step(old[target], t, path[target]))
            for target, (edit_step, path_step) in steps.items()
        }
        path = following
        if on_step is not None:
            on_step(index + 1, len(times))
    return latents
