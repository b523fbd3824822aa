"""Any-to-any generation: what is asked is checked, encoded, denoised jointly, decoded, and signed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcodi.data.images import fit_square, read_image
from medcodi.data.reports import normalise_report
from medcodi.diffusion.guidance import Denoise, Latents, guided, guided_by_each_other
from medcodi.diffusion.sampling import sample_jointly
from medcodi.errors import PromptError
from medcodi.generation.prompts import PromptContexts, Value
from medcodi.generation.result import Generation, Sample, provenance
from medcodi.modality import MODALITIES, in_table_order, modality
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.networks.attention import Context
from medcodi.study import Direction


@torch.no_grad()  # not inference_mode: under ZeRO-3 the weights gathered in here are trained on afterwards
def generate_batch(
    model: MedCoDi,
    prompts: Sequence[Mapping[str, Value]],
    targets: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationConfig = GenerationConfig(),
    *,
    weights: Sequence[Mapping[str, float]] | None = None,
    contexts: PromptContexts | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[dict[str, Value]]:
    """Generate the targets of several requests in one batch.

    A request's result depends on its own prompts and seed, not on the others of the batch (up to rounding).

    Args:
        model: The generator.
        prompts: For each request, modality -> image (float32 ``[H, W]`` in [0, 1] at the model's size) or text. May be empty.
        targets: What to generate, the same for all; denoised jointly.
        seeds: One for each request.
        settings: How to sample.
        weights: For each request, modality -> weight > 0; absent ones weigh 1.
        contexts: Remembers the model's prompt encodings from one batch to the next; None: nothing is remembered.
        on_step: Called with (steps done, steps in all).

    Returns:
        For each request, target -> image float32 ``[H, W]`` in [0, 1], or text.
    """
    settings = settings.resolved(model)
    targets = in_table_order(targets)
    contexts = contexts or PromptContexts(model)
    context, null = contexts.contexts(prompts, weights or [{} for _ in prompts])
    denoise = _guided(model, settings, targets, context, null, torch.tensor([not prompt for prompt in prompts]))
    assert settings.sampler is not None and settings.num_inference_steps is not None
    schedule = model.config.schedule
    latents = sample_jointly(
        denoise,
        {target: model.latent_shape(target) for target in targets},
        list(seeds),
        sampler=settings.sampler,
        schedule={
            "num_train_timesteps": schedule.num_train_timesteps,
            "beta_start": schedule.beta_start,
            "beta_end": schedule.beta_end,
            "beta_schedule": schedule.beta_schedule,
            "prediction_type": schedule.prediction_type,
        },
        num_inference_steps=settings.num_inference_steps,
        device=model.device,
        on_step=on_step,
    )
    decoded = _decode(model, latents)
    return [{target: values[row] for target, values in decoded.items()} for row in range(len(prompts))]


def _guided(
    model: MedCoDi,
    settings: GenerationConfig,
    targets: Sequence[str],
    context: Context,
    null: Context,
    unprompted: Tensor,
) -> Denoise:
    """What a joint run denoises with: guided by its prompts, and the rows without any (bool ``[B]``) by each other's targets."""
    scale, together = settings.guidance_scale, settings.joint_guidance_scale
    assert scale is not None and together is not None
    both = (Context.cat([null, context]) if scale != 1.0 else context).remembering()
    heard: dict[str, Tensor] | None = None if settings.joint else {}

    def denoise(latents: Latents, t: Tensor) -> Latents:
        return model.denoise(latents, t, both, heard=heard)

    prompted = guided(denoise, scale) if scale != 1.0 else denoise
    if not settings.joint or together == 1.0 or len(targets) < 2 or not bool(unprompted.any()):
        return prompted
    alone = context.remembering()

    def apart(latents: Latents, t: Tensor) -> Latents:
        return model.denoise(latents, t, alone, heard={})

    return guided_by_each_other(prompted, apart, together, unprompted)


def _decode(model: MedCoDi, latents: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Values of every target, in the order of the targets; those that one autoencoder serves go through it in one batch."""
    served: dict[tuple[Any, ...], list[str]] = {}
    for target, z in latents.items():
        served.setdefault((MODALITIES[target].kind, z.shape), []).append(target)
    decoded = {}
    for targets in served.values():
        values = _values(model.decode(targets[0], torch.cat([latents[target] for target in targets])))
        batch = len(values) // len(targets)
        decoded |= {target: values[row * batch : (row + 1) * batch] for row, target in enumerate(targets)}
    return {target: decoded[target] for target in latents}


def _values(decoded: Tensor | list[str]) -> list[Any]:
    if isinstance(decoded, Tensor):
        return list(decoded[:, 0].float().cpu().numpy())
    return list(decoded)


@lru_cache(maxsize=2)
def _loaded(folder: str, _changed: float, device: str) -> MedCoDi:
    return MedCoDi.from_pretrained(folder, device=device, lazy=True)


def load(model: MedCoDi | str | Path | None, device: str | None = None) -> MedCoDi:
    """A model as such, by folder or hub name, or (None) the shipped demo; loaded once per process and state of the folder.

    Folders are loaded lazily: each component when a direction first needs it.
    """
    if isinstance(model, MedCoDi):
        if device and torch.device(device) != model.device:
            model.load_components()
            model.to(device)
            model.home = None
        return model.eval()
    if model is None:
        from medcodi.model.shipped import demo_checkpoint

        model = demo_checkpoint()
    index = Path(model) / "model_index.json"
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return _loaded(str(model), index.stat().st_mtime if index.is_file() else 0.0, chosen)


def check_request(
    prompts: Mapping[str, Any] | str,
    targets: Sequence[str] | str | None,
    weights: Mapping[str, float] | None,
    num_samples: int,
    seed: int,
) -> tuple[Direction, dict[str, Any], dict[str, float]]:
    """Check what is asked before anything is loaded.

    Returns:
        The direction, the prompts that count (weight > 0), and their weights.

    Raises:
        PromptError: Naming the value that cannot be, what was expected and the fix.
    """
    prompts = {"report": prompts} if isinstance(prompts, str) else dict(prompts)
    for name in [*prompts, *(weights or {})]:
        modality(name)
    for name, weight in (weights or {}).items():
        if name not in prompts:
            raise PromptError(
                f"a weight of {weight} for {name!r}, which is not a prompt",
                expected="weights for prompts: " + (", ".join(prompts) or "none are given"),
                fix="leave it out, or give that prompt",
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise PromptError(
                f"the weight of {name!r} is {weight}",
                expected="a finite number >= 0",
                fix="0 switches a prompt off; leave it out for 1",
            )
    used = {name: value for name, value in prompts.items() if (weights or {}).get(name, 1.0) > 0}
    if prompts and not used:
        raise PromptError(
            "every prompt has weight 0",
            expected="at least one positive weight",
            fix="give no prompts at all to generate unconditionally",
        )
    wanted = [targets] if isinstance(targets, str) else targets
    if wanted is None:
        wanted = [name for name in MODALITIES if name not in prompts]
    direction = Direction(tuple(prompts), tuple(wanted))
    if num_samples < 1:
        raise PromptError(f"num_samples is {num_samples}", expected="at least 1")
    if seed < 0:
        raise PromptError(f"seed is {seed}", expected="an integer >= 0")
    return (
        Direction(tuple(used), direction.targets),
        used,
        {name: float((weights or {}).get(name, 1.0)) for name in used},
    )


def read_prompt(name: str, value: Any, image_size: int) -> Value:
    """A prompt as the model takes it: a fitted image ``[S, S]`` in [0, 1], or a normalised text.

    Raises:
        PromptError: If a text modality is given something else.
        DataError: If the image or report cannot be used.
    """
    if modality(name).kind == "text":
        if not isinstance(value, str):
            raise PromptError(f"the {name} prompt is a {type(value).__name__}", expected="a str")
        return normalise_report(value)
    return fit_square(read_image(value, modality=name), image_size)


def generate(
    prompts: Mapping[str, Any] | str,
    targets: Sequence[str] | str | None = None,
    *,
    model: MedCoDi | str | Path | None = None,
    num_samples: int = 1,
    weights: Mapping[str, float] | None = None,
    preset: str | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    device: str | None = None,
    execution: ExecutionConfig = ExecutionConfig(),
    on_step: Callable[[int, int], None] | None = None,
) -> Generation:
    """Generate any modalities of a chest examination from any others.

    Args:
        prompts: Modality -> value: a text for ``report``; for images a path (PNG, JPEG, TIFF, DICOM), PIL image, or array.
            A plain str is a report. Empty: unconditional.
        targets: What to generate; None: every modality that is no prompt. Several are generated jointly.
        model: A model, its folder, or a hub repository; None: the shipped demo.
        num_samples: How many; sample i has seed ``seed + i``.
        weights: Modality -> weight of its prompt, >= 0, relative to the others; 0 equals absence.
        preset: One of ``medcodi.generation.presets.PRESETS``: ``"fast"``, ``"faster"``, ``"reference"``; what is said beside it wins.
        guidance_scale: 0 ignores the prompts, 1 follows them plainly, more: more strictly. None: the model's own.
        num_inference_steps: Denoising steps. None: the model's own.
        sampler: One of ``medcodi.diffusion.sampling.SAMPLERS``. None: the model's own.
        seed: Of the first sample. The same seed gives the same sample, however many are asked for.
        device: ``"cpu"``, ``"cuda"`` …; None: a GPU where there is one.
        execution: How the model runs: precision, layout, compilation, attention kernels, offload.
        on_step: Called with (steps done, steps in all).

    Returns:
        The samples, with ``.lateral``-like access to the first, and ``.save``.

    Raises:
        PromptError: If the request cannot be: unknown or doubled modality, no target left, negative weight, unknown sampler or preset.
        DataError: If a prompt cannot be read.
        CheckpointError: If the model cannot be loaded.
        ConfigError: If ``execution`` asks for what this machine does not have.
    """
    direction, used, weights_used = check_request(prompts, targets, weights, num_samples, seed)
    settings = GenerationConfig(
        preset=preset, sampler=sampler, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
    )
    # A pathological image or report is refused before the model is loaded.
    early = {
        name: read_prompt(name, value, 64) if MODALITIES[name].kind == "text" else read_image(value, modality=name)
        for name, value in used.items()
    }
    execution.check(device)
    chosen = load(model, device)
    settings = settings.resolved(chosen)
    ready = {
        name: fit_square(value, chosen.config.image_size) if isinstance(value, np.ndarray) else value
        for name, value in early.items()
    }
    missing = set(direction.prompts + direction.targets) - set(chosen.config.modalities)
    if missing:
        raise PromptError(
            f"the model {chosen.config.name!r} has no {', '.join(sorted(missing))}",
            expected=", ".join(chosen.config.modalities),
        )
    seeds = [seed + index for index in range(num_samples)]
    with execution.running(chosen, chosen.components_for(direction.prompts, direction.targets)):
        results = generate_batch(
            chosen,
            [ready] * num_samples,
            direction.targets,
            seeds,
            settings,
            weights=[weights_used] * num_samples,
            on_step=on_step,
        )
    samples = [Sample(seed=one, contents=contents) for one, contents in zip(seeds, results, strict=True)]
    told = provenance(chosen, direction, ready, weights_used, settings, seeds, execution.arithmetic)
    return Generation(direction, samples, told)
