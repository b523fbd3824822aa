"""How to sample: sampler, steps and guidance, as asked, and what a preset or the model says where nothing is asked."""

from __future__ import annotations

import math

from medcodi.config import config
from medcodi.diffusion.sampling import SAMPLERS
from medcodi.errors import PromptError, one_of
from medcodi.generation.presets import PRESETS, preset_of
from medcodi.model import MedCoDi


@config
class GenerationConfig:
    """How to sample. None: as the preset says; without one, what the model generates best with (its ``generation`` defaults)."""

    preset: str | None = None  # a key of PRESETS: sampler and steps under one name
    sampler: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    joint_guidance_scale: float | None = None  # how far targets generated together without a prompt follow each other
    joint: bool = True  # False: targets do not hear each other (an ablation)

    def __post_init__(self) -> None:
        if self.preset is not None:
            preset_of(self.preset)
        if self.sampler is not None:
            one_of("sampler", self.sampler, SAMPLERS, PromptError)
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise PromptError(
                f"num_inference_steps is {self.num_inference_steps}",
                expected="at least 1",
                fix="20 to 50 serve most uses",
            )
        for name in ("guidance_scale", "joint_guidance_scale"):
            scale = getattr(self, name)
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise PromptError(
                    f"{name} is {scale}",
                    expected="a finite number >= 0",
                    fix="1 follows plainly, 2 to 8 more strictly",
                )

    def resolved(self, model: MedCoDi) -> GenerationConfig:
        """The same without a preset: its values, else the model's defaults, in the place of None."""
        own = model.config.generation
        preset = PRESETS[self.preset] if self.preset is not None else own
        asked = (self.guidance_scale, preset.guidance_scale, own.guidance_scale)
        together = own.joint_guidance_scale if self.joint_guidance_scale is None else self.joint_guidance_scale
        return GenerationConfig(
            sampler=self.sampler or preset.sampler,
            num_inference_steps=self.num_inference_steps or preset.num_inference_steps,
            guidance_scale=next(scale for scale in asked if scale is not None),
            joint_guidance_scale=together,
            joint=self.joint,
        )
