"""How to sample: sampler, number of steps, guidance and presets. A model, a request, an evaluation and a reader study hold the same class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from medcodi.config import config
from medcodi.errors import PromptError, one_of

if TYPE_CHECKING:
    from medcodi.model.medcodi import MedCoDi

# The values that a preset, a model and a request may each give; the first that is not None counts.
SAMPLING_FIELDS = ("sampler", "num_inference_steps", "guidance_scale", "joint_guidance_scale")
# Chosen by measurement: docs/PERFORMANCE.md, "Few steps". A preset leaves guidance to the model.
PRESETS: dict[str, dict[str, Any]] = {
    "reference": {"sampler": "ddim", "num_inference_steps": 50},  # the paper's
    "fast": {"sampler": "dpm++", "num_inference_steps": 20},
    "faster": {"sampler": "unipc", "num_inference_steps": 10},
}


@config
class GenerationConfig:
    """How to sample. A field that is None takes the preset's value, else the model's own.

    Attributes:
        preset: A key of ``PRESETS``.
        sampler: A key of ``medcodi.diffusion.sampling.SAMPLERS``.
        num_inference_steps: Denoiser evaluations for each sample.
        guidance_scale: Classifier-free guidance: 0 ignores the prompts, 1 is no guidance.
        joint_guidance_scale: How far targets generated together without a prompt follow each other; 1 is the paper.
        joint: False: the targets do not hear each other (an ablation).
    """

    preset: str | None = None
    sampler: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    joint_guidance_scale: float | None = None
    joint: bool = True

    def __post_init__(self) -> None:
        if self.preset is not None:
            one_of("preset", self.preset, PRESETS, PromptError)
        if self.sampler is not None:
            from medcodi.diffusion.sampling import SAMPLERS  # here, so that a study file is read without torch

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
                    f"{name} is {scale}", expected="a finite number >= 0", fix="1 is no guidance, 2 to 8 are usual"
                )

    @classmethod
    def from_fields(cls, other: Any) -> GenerationConfig:
        """The generation config whose fields another config holds among its own (it may lack some)."""
        names = GenerationConfig.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
        return GenerationConfig(**{name: getattr(other, name) for name in names if hasattr(other, name)})

    def filled_by(self, defaults: GenerationConfig) -> GenerationConfig:
        """None replaced by the preset's values, then by those of ``defaults``; the result names no preset."""
        own = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        preset = PRESETS[self.preset] if self.preset is not None else {}
        filled = {
            name: value if value is not None else preset.get(name, getattr(defaults, name))
            for name, value in own.items()
        }
        return GenerationConfig(**filled, joint=self.joint)

    def resolved(self, model: MedCoDi) -> GenerationConfig:
        """The values that ``model`` samples with: no preset, and no None.

        Raises:
            PromptError: If the model's noise schedule has fewer steps.
        """
        resolved = self.filled_by(model.config.generation)
        limit, num_steps = model.config.schedule.num_train_timesteps, resolved.num_inference_steps or 1
        if num_steps > limit:
            raise PromptError(
                f"num_inference_steps is {num_steps}", expected=f"at most {limit}", fix="20 to 50 steps serve most uses"
            )
        return resolved
