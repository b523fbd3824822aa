"""Editing latents: along the noised original, a denoiser's step is corrected by what it would do to the original itself.

The original's path is its own noising with one noise, z*_t = sqrt(alpha_bar_t) z0 + sqrt(1 - alpha_bar_t) eps. The edit starts on it, and
each step adds only the difference that the new prompts make: z_s = step(z_t; new) + z*_s - step(z*_t; original), the consistent inversion of
Xu et al. (2024, "Inversion-free image editing") with a ``diffusers`` sampler. So with the same prompts nothing changes, at any strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from medcodi.diffusion.guidance import Denoise, Latents
from medcodi.diffusion.sampling import build_scheduler, take_step
from medcodi.errors import PromptError
from medcodi.randomness import Key, keyed_normal, torch_generator


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
        seeds: One for each row; its noise is that of :func:`~medcodi.diffusion.sampling.sample_jointly`.
        sampler: As there.
        schedule: As there.
        num_inference_steps: Of the whole schedule; the last ``strength`` of them are taken.
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
    alpha_bar = build_scheduler(sampler, schedule, num_inference_steps).alphas_cumprod

    def noised(t: int) -> Latents:
        return {
            target: alpha_bar[t].sqrt() * z0 + (1 - alpha_bar[t]).sqrt() * noise[target]
            for target, z0 in original.items()
        }

    # Step both down: the original along its path, the edit beside it.
    latents = path = noised(times[0])
    for index, t in enumerate(times):
        rows = torch.full((len(seeds),), t, device=device)
        new, old = denoise(latents, rows), denoise_original(path, rows)
        following = noised(times[index + 1]) if index + 1 < len(times) else original
        latents = {
            target: edit_step(new[target], t, latents[target])
            + (following[target] - path_step(old[target], t, path[target]))
            for target, (edit_step, path_step) in steps.items()
        }
        path = following
        if on_step is not None:
            on_step(index + 1, len(times))
    return latents
