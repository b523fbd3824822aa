"""The denoiser of a request: a model's, guided by prompts, by the other targets, and by a weaker model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medcodi.diffusion.guidance import Denoise, Latents, Times, guided, guided_by_each_other, guided_by_weaker
from medcodi.model import MedCoDi
from medcodi.model.generation_config import GenerationConfig
from medcodi.networks.attention import Context


def guided_denoiser(
    model: MedCoDi,
    config: GenerationConfig,
    targets: Sequence[str],
    context: Context,
    null: Context,
    unprompted: Tensor,
    weak: MedCoDi | None = None,
) -> Denoise:
    """The denoiser of a joint run, with guidance.

    Rows with prompts are guided by their context against the null context; ``unprompted`` rows (bool ``[B]``) by the other
    targets that they hear against not hearing them. Where ``config.weak`` applies, the model is guided by the ``weak`` one first.
    """
    scale, environment_scale = config.guidance_scale, config.environment_guidance_scale
    assert scale is not None and environment_scale is not None
    # None: the environments are computed; {}: nothing is heard.
    heard: dict[str, Tensor] | None = None if config.joint else {}

    # Students have their own weights, and guidance built in.
    if config.student:
        weights, alone = model.student_weights(targets), context.remembering()
        return lambda latents, t: model.denoise(latents, t, alone, weights=weights)

    # Guidance over the context: both halves in one batch.
    both = (Context.cat([null, context]) if scale != 1.0 else context).remembering()

    # Guidance by a weaker model makes each prediction a better one, whatever it is contrasted with.
    away = torch.ones_like(unprompted) if config.weak is not None and config.weak.everywhere else unprompted  # [B]

    def predict(latents: Latents, t: Times, context: Context, heard: dict[str, Tensor] | None) -> Latents:
        strong = model.denoise(latents, t, context, heard=heard)
        if weak is None or config.weak is None or config.weak.scale == 1.0 or not bool(away.any()):
            return strong
        rows = away.repeat(len(context.tokens) // len(away))  # of both halves
        return guided_by_weaker(strong, weak.denoise(latents, t, context, heard=heard), config.weak.scale, rows)

    def denoise(latents: Latents, t: Times) -> Latents:
        return predict(latents, t, both, heard)

    prompted = guided(denoise, scale) if scale != 1.0 else denoise
    if not config.joint or environment_scale == 1.0 or len(targets) < 2 or not bool(unprompted.any()):
        return prompted

    # Guidance over the other targets, for the rows without a prompt.
    alone = context.remembering()

    def denoise_alone(latents: Latents, t: Times) -> Latents:
        return predict(latents, t, alone, {})

    return guided_by_each_other(prompted, denoise_alone, environment_scale, unprompted)
