"""Editing a study: the same patient with other findings. Films and report change together, and stay where nothing is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcodi.config import to_dict
from medcodi.data.images import fit_square
from medcodi.data.reports import normalise_report
from medcodi.diffusion.guidance import Denoise
from medcodi.diffusion.sampling import check_strength, edit_latents
from medcodi.errors import PromptError
from medcodi.generation.contexts import PromptContexts
from medcodi.generation.domain import warn_outside_domain
from medcodi.generation.guided import guided_denoiser
from medcodi.generation.pipeline import as_prompts, decode_contents, generate_batch, load
from medcodi.generation.request import check_modalities, check_seed, read_prompt, truncations, value_hash
from medcodi.generation.result import Generation, Sample, provenance
from medcodi.generation.statements import merged_report
from medcodi.generation.watermark import embed_contents
from medcodi.modality import MODALITIES, in_table_order, names
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Content, Direction, Study

STRENGTH = 0.5  # chosen by measurement: docs/EDITING.md
REPORT = names("text")[0]
EDITED = (
    "Edited by a model from the examination of a patient, whom it may still show. Not de-identified. Not for diagnosis."
)


def edit(
    study: Study | Mapping[str, Any],
    report: str,
    targets: Sequence[str] | str | None = None,
    *,
    model: MedCoDi | str | Path | None = None,
    strength: float = STRENGTH,
    replace: bool = False,
    preset: str | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    sampler: str | None = None,
    watermark: bool = False,
    seed: int = 0,
    device: str | None = None,
    execution: ExecutionConfig = ExecutionConfig(),
    on_step: Callable[[int, int], None] | None = None,
) -> Generation:
    """Edit a study: the same patient, with the findings that a report states.

    Args:
        study: A study, or modality -> value, as the prompts of :func:`medcodi.generate`.
        report: Statements about findings, such as ``"Large left pleural effusion. No pneumothorax."``. What they do not name stays
            as the study's report says it, or, of a study without one, the report that the model generates from its films.
        targets: Modalities of the study to edit; None: all of them. The others are only part of the provenance.
        model: A model, its folder, or a hub repository; None: the shipped demo.
        strength: In (0, 1]: the share of the sampler's steps that is taken. More changes more.
        replace: Whether ``report`` is the whole report, not statements.
        preset: As for :func:`medcodi.generate`.
        guidance_scale: As there.
        num_inference_steps: As there.
        sampler: As there.
        watermark: As there.
        seed: Of the noise.
        device: As there.
        execution: As there.
        on_step: Called with (steps done, steps in all).

    Returns:
        One sample: the edited films, and the edited report if the study has one.

    Raises:
        PromptError: If the strength is invalid, the study lacks a target, or nothing is to be changed.
        DataError: If a content of the study, or the report, cannot be read.
        CheckpointError: If the model cannot be loaded.
    """
    # Check everything, and read the study, before the model is loaded.
    check_strength(strength)
    given = dict(study.contents) if isinstance(study, Study) else dict(study)
    check_seed(seed)
    direction = _direction(given, targets)
    config = GenerationConfig(
        preset=preset,
        sampler=sampler,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        watermark=watermark,
    )
    contents = {name: read_prompt(name, given[name], None) for name in in_table_order(given)}
    known = str(contents.get(REPORT, report))  # without a report, only check the statements now
    new_report = normalise_report(report) if replace else merged_report(known, report)
    execution.check(device)

    # Load the model, and fit the study to it.
    loaded = load(model, device, execution.weights_dtype)
    check_modalities(loaded, Direction((), in_table_order(contents)))
    files = {} if isinstance(study, Study) else {name: value for name, value in given.items() if name != REPORT}
    outside = warn_outside_domain(loaded, direction, {**files, REPORT: new_report})
    config = config.resolved(loaded)
    size = loaded.config.image_size
    contents = {name: fit_square(v, size) if isinstance(v, np.ndarray) else v for name, v in contents.items()}

    # Edit: films are changed by the model, the report by the statements.
    needed = loaded.components_for(MODALITIES, (*direction.targets, *(() if REPORT in contents else (REPORT,))))
    with execution.running(loaded, needed):
        original: dict[str, Content] = {name: value for name, value in contents.items() if name == REPORT}
        if not original:
            original = as_prompts(generate_batch(loaded, [contents], (REPORT,), [seed], config)[0])
            if not replace and original:
                new_report = merged_report(str(original[REPORT]), report)
        new = {REPORT: new_report}
        films = [name for name in direction.targets if MODALITIES[name].kind == "image"]
        edited = edit_batch(loaded, [contents], films, [original], [new], [seed], config, strength, on_step)[0]
    results: dict[str, Content] = {name: {**edited, **new}[name] for name in direction.targets}

    # Provenance: everything needed to edit the study again.
    weights = dict.fromkeys(contents, 1.0)
    cut = truncations(loaded, contents)
    origin = provenance(loaded, direction, contents, weights, config, [seed], execution.arithmetic, cut)
    origin["edit"] = {"report_sha256": value_hash(new_report), "strength": strength, "replace": replace}
    if new_cut := truncations(loaded, new).get(REPORT):
        origin["edit"]["truncated"] = asdict(new_cut)
    origin["notice"] = EDITED
    return Generation(direction, [Sample(seed=seed, contents=results)], {**origin, **outside})


def _direction(study: Mapping[str, Any], targets: Sequence[str] | str | None) -> Direction:
    """The modalities that are edited, and those that stay; refuses a modality that the study lacks."""
    chosen = in_table_order(study if targets is None else [targets] if isinstance(targets, str) else targets)
    missing = [name for name in chosen if name not in study]
    if missing:
        raise PromptError(
            f"an edit of {missing[0]}, which the study lacks",
            expected="targets among " + (", ".join(in_table_order(study)) or "the contents of a study; it has none"),
            fix=f"leave {missing[0]} out, or generate it from the edited study",
        )
    return Direction(tuple(name for name in in_table_order(study) if name not in chosen), chosen)


@torch.no_grad()
def edit_batch(
    model: MedCoDi,
    studies: Sequence[Mapping[str, Content]],
    films: Sequence[str],
    original: Sequence[Mapping[str, Content]],
    new: Sequence[Mapping[str, Content]],
    seeds: Sequence[int],
    config: GenerationConfig,
    strength: float,
    on_step: Callable[[int, int], None] | None = None,
) -> list[dict[str, Content]]:
    """Edit films of several studies in one batch, one film after the other: by the difference of the new prompts and the original's.

    Args:
        model: The generator.
        studies: For each, modality -> image at the model's size; all have the films.
        films: Those to edit, in order; a film that is edited is a prompt of the next, as its original is of the next original.
        original: For each study, prompts that describe it; may be empty.
        new: For each study, prompts that describe the result.
        seeds: Of the noise, one for each study.
        config: How to sample.
        strength: In (0, 1].
        on_step: Called with (steps done, steps in all).

    Returns:
        For each study, film -> image float32 ``[H, W]`` in [0, 1].
    """
    config = config.resolved(model)
    assert config.sampler is not None and config.num_inference_steps is not None
    weak = load(config.weak.model, str(model.device)) if config.weak is not None else None
    before, after = [dict(prompts) for prompts in original], [dict(prompts) for prompts in new]
    results: list[dict[str, Content]] = [{} for _ in studies]
    with model.lock, nullcontext() if weak is None else weak.lock:
        encoder = PromptContexts(model)
        for place, film in enumerate(films):
            # One denoiser with the new prompts, one with the original's.
            denoise, denoise_original = (
                _denoiser(model, config, film, encoder, prompts, weak) for prompts in (after, before)
            )
            images = np.stack([np.asarray(study[film], np.float32) for study in studies])
            z0 = {film: model.latent(film, torch.from_numpy(images)[:, None].to(model.device)).float()}  # [B, ...]
            latents = edit_latents(
                denoise,
                denoise_original,
                z0,
                list(seeds),
                sampler=config.sampler,
                schedule=to_dict(model.config.schedule),
                num_inference_steps=config.num_inference_steps,
                strength=strength,
                on_step=None
                if on_step is None
                else lambda step, num, place=place: on_step(place * num + step, num * len(films)),
            )
            # What is finished is a prompt of what follows; beside it the original, as the autoencoder gives it back too.
            edited, unedited = decode_contents(model, latents)[film], decode_contents(model, z0)[film]
            for row, result in enumerate(results):
                result[film] = after[row][film] = edited[row]
                before[row][film] = unedited[row]
    return [embed_contents(result) for result in results] if config.watermark else results


def _denoiser(
    model: MedCoDi,
    config: GenerationConfig,
    film: str,
    encoder: PromptContexts,
    prompts: Sequence[Mapping[str, Content]],
    weak: MedCoDi | None,
) -> Denoise:
    context, null = encoder.contexts(prompts, [{}] * len(prompts))
    unprompted = torch.tensor([not own for own in prompts])  # [B]
    return guided_denoiser(model, config, (film,), context, null, unprompted, weak)
