"""Presets of generation: a sampler and its number of steps under one name, chosen by what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from medcodi.errors import PromptError, one_of


@dataclass(frozen=True)
class Preset:
    """How to sample, under one name.

    Attributes:
        sampler: A key of ``medcodi.diffusion.sampling.SAMPLERS``.
        num_inference_steps: Denoiser evaluations.
        guidance_scale: None: the model's own. How strictly a model should follow its prompts does not depend on the steps.
    """

    sampler: str
    num_inference_steps: int
    guidance_scale: float | None = None


# What each costs and gives: docs/PERFORMANCE.md, "Few steps".
PRESETS: dict[str, Preset] = {
    "reference": Preset("ddim", 50),  # the paper's
    "fast": Preset("dpm++", 20),
    "faster": Preset("unipc", 10),
}


def preset_of(name: str) -> Preset:
    """The preset of that name.

    Raises:
        PromptError: If there is none; names the nearest one.
    """
    return PRESETS[one_of("preset", name, PRESETS, PromptError)]
