"""Any-to-any generation: a request is checked, its prompts encoded, its targets denoised in their order and decoded, and its provenance recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcodi.config import to_dict
from medcodi.diffusion.sampling import sample_jointly
from medcodi.errors import DataError
from medcodi.generation.contexts import PromptContexts
from medcodi.generation.domain import warn_outside_domain
from medcodi.generation.guided import guided_denoiser
from medcodi.generation.request import (
    check_batch,
    check_modalities,
    check_request,
    fit_prompt,
    read_prompt,
    truncations,
)
from medcodi.generation.result import Generation, Sample, provenance
from medcodi.generation.watermark import embed_contents
from medcodi.modality import MODALITIES, in_table_order
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig, WeakModelConfig
from medcodi.model.medcodi import Values
from medcodi.model.threads import LOADING
from medcodi.study import Content


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
    order: str | None = None,
    sequence: Sequence[str] | None = None,
    weak: WeakModelConfig | None = None,
    watermark: bool = False,
    seed: int = 0,
    device: str | None = None,
    execution: ExecutionConfig = ExecutionConfig(),
    on_step: Callable[[int, int], None] | None = None,
) -> Generation:
    """Generate any modalities of a chest examination from any others.

    Args:
        prompts: Modality -> value: a text for ``report``; for images a path (PNG, JPEG, TIFF, DICOM), PIL image, or array.
            A plain str is a report. Empty: unconditional.
        targets: Modalities to generate; None: every one that is not a prompt. Several are generated in an ``order``.
        model: A model, its folder, or a hub repository; None: the shipped demo.
        num_samples: Number of samples; sample i has seed ``seed + i``.
        weights: Modality -> weight of its prompt, >= 0, relative to the others; 0 equals absence.
        preset: ``"fast"``, ``"faster"``, ``"reference"``, or of a model with students ``"interactive"``: sampler and steps under one
            name; arguments beside it override it.
        guidance_scale: 0 ignores the prompts, 1 is no guidance, more follows them more strictly. None: the model's own.
        num_inference_steps: Denoising steps. None: the model's own.
        sampler: One of ``medcodi.diffusion.sampling.SAMPLERS``. None: the model's own.
        order: Of several targets: ``"joint"``, ``"staggered"`` or ``"chained"`` (what is finished is a prompt of the next).
            None: the model's own.
        sequence: The targets, first to last, if the order has a sequence. None: that of the table of modalities.
        weak: Guidance of the targets that nothing prompts, by a weaker model: ``WeakModelConfig(model="runs/early/model", scale=2.0)``.
        watermark: Mark films invisibly, see docs/PRIVACY.md; files are marked in their metadata anyway.
        seed: Seed of the first sample. The same seed gives the same sample, whatever ``num_samples`` is.
        device: ``"cpu"``, ``"cuda"`` …; None: a GPU where there is one.
        execution: Precision, layout, compilation, attention kernels, offload.
        on_step: Called with (steps done, steps in all).

    Returns:
        The samples, with ``.lateral``-like access to the first, and ``.save``.

    Raises:
        PromptError: If the request is invalid: unknown or doubled modality, no target left, negative weight, unknown sampler, preset or
            order, a sequence that names a target twice or not at all, a weak model that differs in more than its denoisers.
        DataError: If a prompt cannot be read.
        CheckpointError: If the model cannot be loaded.
        ConfigError: If ``execution`` needs what this machine does not have.
    """
    # Check the request, and read its prompts, before the model is loaded.
    direction, used, used_weights = check_request(prompts, targets, weights, num_samples, seed)
    check_batch("num_samples", num_samples)
    config = GenerationConfig(
        preset=preset,
        sampler=sampler,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        order=order,
        sequence=None if sequence is None else tuple(sequence),
        weak=weak,
        watermark=watermark,
    )
    config.sequence_of(direction.targets)  # refuses one that lacks a target
    values = {name: read_prompt(name, value, None) for name, value in used.items()}
    execution.check(device)

    # Load the model, and fit request and prompts to it.
    loaded = load(model, device, execution.weights_dtype)
    check_modalities(loaded, direction)
    outside = warn_outside_domain(loaded, direction, used)
    config = config.resolved(loaded)
    values = {name: fit_prompt(name, value, loaded.config) for name, value in values.items()}

    # Encode, denoise, decode: all samples in one batch.
    seeds = [seed + index for index in range(num_samples)]
    with execution.running(loaded, loaded.components_for(direction.prompts, direction.targets, student=config.student)):
        contents = generate_batch(
            loaded,
            [values] * num_samples,
            direction.targets,
            seeds,
            config,
            weights=[used_weights] * num_samples,
            on_step=on_step,
        )

    # Provenance: everything needed to generate the samples again.
    samples = [Sample(seed=seed, contents=content) for seed, content in zip(seeds, contents, strict=True)]
    cut = truncations(loaded, values)
    origin = provenance(loaded, direction, values, used_weights, config, seeds, execution.arithmetic, cut)
    return Generation(direction, samples, {**origin, **outside})


@torch.no_grad()  # not inference_mode: under ZeRO-3 the weights gathered in here are trained on afterwards
def generate_batch(
    model: MedCoDi,
    prompts: Sequence[Mapping[str, Content]],
    targets: Sequence[str],
    seeds: Sequence[int],
    config: GenerationConfig = GenerationConfig(),
    *,
    weights: Sequence[Mapping[str, float]] | None = None,
    contexts: PromptContexts | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[dict[str, Content]]:
    """Generate the targets of several requests in one batch; up to rounding, a result depends on its own request only.

    Args:
        model: The generator.
        prompts: For each request, modality -> image (float32 ``[H, W]`` in [0, 1] at the model's size) or text. May be empty.
        targets: Modalities to generate, the same for all requests.
        seeds: One for each request.
        config: How to sample.
        weights: For each request, modality -> weight > 0; absent ones are 1.
        contexts: A cache of prompt encodings over several batches; None: a fresh one.
        on_step: Called with (steps done, steps in all).

    Returns:
        For each request, target -> image float32 ``[H, W]`` in [0, 1], or text.
    """
    config = config.resolved(model)
    targets = in_table_order(targets)
    assert config.sampler is not None and config.num_inference_steps is not None

    groups = config.groups_of(targets)
    num_steps = [config.num_inference_steps + max(config.delays_of(group).values()) for group in groups]

    # In one thread at a time: another one may run the model in another precision.
    weak = load(config.weak.model, str(model.device)) if config.weak is not None else None
    with model.lock, nullcontext() if weak is None else weak.lock:
        contexts = contexts or PromptContexts(model)
        results: list[dict[str, Content]] = [{} for _ in prompts]
        for index, group in enumerate(groups):
            # Encode the prompts; in a chain, what is finished is a prompt too.
            given = [{**prompt, **as_prompts(result)} for prompt, result in zip(prompts, results, strict=True)]
            context, null = contexts.contexts(given, weights or [{} for _ in prompts])

            # Denoise the targets of the group together, each row from its own seed.
            unprompted = torch.tensor([not prompt for prompt in given])  # [B]
            done = sum(num_steps[:index])
            latents = sample_jointly(
                guided_denoiser(model, config, group, context, null, unprompted, weak),
                {target: model.latent_shape(target) for target in group},
                list(seeds),
                sampler=config.sampler,
                schedule=to_dict(model.config.schedule),
                num_inference_steps=config.num_inference_steps,
                device=model.device,
                delays=config.delays_of(group),
                on_step=None if on_step is None else lambda step, _, done=done: on_step(done + step, sum(num_steps)),
            )

            # Decode, and sort the values by request.
            for target, values in decode_contents(model, latents).items():
                for result, value in zip(results, values, strict=True):
                    result[target] = value
        # Marked last: the films that were prompts of a chain were not.
        contents = [{target: result[target] for target in targets} for result in results]
        return [embed_contents(each) for each in contents] if config.watermark else contents


def as_prompts(contents: Mapping[str, Content]) -> dict[str, Content]:
    """Generated contents as prompts, exactly as a user would give them; a text without a word is no prompt."""
    prompts: dict[str, Content] = {}
    for name, value in contents.items():
        try:
            prompts[name] = read_prompt(name, value, None) if isinstance(value, str) else value
        except DataError:
            continue
    return prompts


def decode_contents(model: MedCoDi, latents: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Values of every target, in the order of the targets."""
    # Targets that one autoencoder serves are decoded in one batch.
    served: dict[tuple[Any, ...], list[str]] = {}
    for target, z in latents.items():
        served.setdefault((MODALITIES[target].kind, z.shape), []).append(target)
    decoded = {}
    for targets in served.values():
        values = _values(model.decode(targets[0], torch.cat([latents[target] for target in targets])))
        batch = len(values) // len(targets)
        decoded |= {target: values[row * batch : (row + 1) * batch] for row, target in enumerate(targets)}
    return {target: decoded[target] for target in latents}


def _values(decoded: Values) -> list[Any]:
    if isinstance(decoded, Tensor):
        return list(decoded[:, 0].float().cpu().numpy())
    return list(decoded)


@lru_cache(maxsize=2)
def _load_folder(folder: str | Path, _modified: float, device: str, dtype: torch.dtype) -> MedCoDi:
    return MedCoDi.from_pretrained(folder, device=device, dtype=dtype, lazy=True)


def load(model: MedCoDi | str | Path | None, device: str | None = None, dtype: torch.dtype = torch.float32) -> MedCoDi:
    """A model: as given, from a folder or the hub, or (None, or ``"demo"``) the shipped demo.

    Folders are loaded once per process, state of the folder and precision of the weights, and lazily: each component when it is
    first needed.
    """
    if isinstance(model, MedCoDi):
        if device and torch.device(device) != model.device:
            with model.lock:
                model.load_components()
                model.to(device)
                model.home = None
        return model.eval()
    from medcodi.model import demo_checkpoint, named_model

    model = demo_checkpoint() if model is None else named_model(model)
    # A folder stays a Path: as text, one called demo would be the name of the shipped model.
    model = Path(model) if Path(model).is_dir() else model
    index = Path(model) / "model_index.json"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with LOADING:  # threads that ask for the same folder get the same model
        return _load_folder(model, index.stat().st_mtime if index.is_file() else 0.0, device, dtype)
