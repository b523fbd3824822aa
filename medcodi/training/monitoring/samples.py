"""Samples while training: what each stage can show of a few studies, as one picture that explains itself and one text file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcodi.data.loading import Batch
from medcodi.modality import in_table_order
from medcodi.model import MedCoDi
from medcodi.randomness import seed_from_keys
from medcodi.study import all_directions, subsets
from medcodi.training.monitoring.contact_sheet import contact_sheet
from medcodi.training.monitoring.trackers import RunLog

Value = np.ndarray | str
NUM_STEPS = 20  # of the sampler, at most: enough to see, cheap enough to be seen often


@dataclass(frozen=True)
class Row:
    """One modality of every study, as it was made one way.

    Attributes:
        title: What was made from what.
        target: The modality.
        values: For each study an image float32 ``[H, W]`` in [0, 1], or a text; None where the study lacks what it is made from.
    """

    title: str
    target: str
    values: Sequence[Value | None]


@dataclass(frozen=True)
class Samples:
    """Truth, and what was made of it; columns are studies.

    Attributes:
        truth: Modality -> for each study its value, None where it has none.
        rows: What was made.
    """

    truth: dict[str, list[Value | None]]
    rows: list[Row] = field(default_factory=list)


def draw_samples(stage: Any, batch: Batch, seed: int, which: str = "stage") -> Samples:
    """What a stage can show on the studies of a batch; no rows where it has nothing to show.

    Draws are keyed by (seed, sample), so the same studies have the same noise every time, in every direction, and training's
    randomness is not touched.

    Args:
        stage: The stage, in evaluation mode.
        batch: Some studies.
        seed: The run's.
        which: ``stage``: the directions that it trains; ``all``: every one that the model has.
    """
    model: MedCoDi = stage.model
    samples = Samples({name: _truth(batch, name) for name in model.config.modalities if name in batch.contents})
    if not len(batch):
        return samples
    if stage.name in SHOWN:
        SHOWN[stage.name](stage, batch, samples)
    if stage.name in DIRECTIONS:
        chosen = every_direction(model.config.modalities) if which == "all" else DIRECTIONS[stage.name](stage)
        for prompts, targets in chosen:
            _generated(model, batch, seed, samples, prompts, targets)
    return samples


def _truth(batch: Batch, name: str) -> list[Value | None]:
    values, present = batch.contents[name], batch.present[name].tolist()
    plain = values if isinstance(values, list) else list(values[:, 0].float().cpu().numpy())
    return [value if there else None for value, there in zip(plain, present, strict=True)]


def _reconstructions(stage: Any, batch: Batch, samples: Samples) -> None:
    """Each modality whose autoencoder is trained through it, by the mean of its posterior."""
    model: MedCoDi = stage.model
    for name in stage.needs():
        truth = samples.truth[name]
        decoded = model.decode(name, model.latent(name, batch.contents[name]))
        plain = list(decoded[:, 0].float().cpu().numpy()) if isinstance(decoded, torch.Tensor) else list(decoded)
        kept = [value if known is not None else None for value, known in zip(plain, truth, strict=True)]
        samples.rows.append(Row(f"{name} through its autoencoder", name, kept))


def _generated(
    model: MedCoDi, batch: Batch, seed: int, samples: Samples, prompts: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    from medcodi.generation.pipeline import generate_batch
    from medcodi.model.generation_config import GenerationConfig

    given = {name: samples.truth[name] for name in prompts}
    requests = [{name: v for name in prompts if (v := given[name][row]) is not None} for row in range(len(batch))]
    seeds = [seed_from_keys("samples", seed, sample) for sample in batch.samples]
    num_steps = min(NUM_STEPS, model.config.generation.num_inference_steps or NUM_STEPS)
    made = generate_batch(model, requests, targets, seeds, GenerationConfig(num_inference_steps=num_steps))
    for target in targets:
        others = "+".join(name for name in targets if name != target)
        title = f"{target}{f' (with {others})' if others else ''} from {'+'.join(prompts) or 'nothing'}"
        values = [
            one[target] if len(request) == len(prompts) else None for one, request in zip(made, requests, strict=True)
        ]
        samples.rows.append(Row(title, target, values))


# ---- directions --------------------------------------------------------------------------------------------------
Pairs = list[tuple[tuple[str, ...], tuple[str, ...]]]  # prompts, targets


def every_direction(modalities: tuple[str, ...]) -> Pairs:
    """All directions (12 for three modalities), those with the same targets together; and all modalities together from nothing."""
    names = in_table_order(modalities)
    together = sorted(all_directions(names), key=lambda direction: subsets(names).index(direction.targets))
    return [*((direction.prompts, direction.targets) for direction in together), ((), names)]


def _single_targets(stage: Any) -> Pairs:
    """Each target from every subset of the others, and from nothing."""
    names = in_table_order(stage.model.config.modalities)
    return [
        (prompts, (target,))
        for target in stage.targets
        for prompts in subsets((name for name in names if name != target), least=0)
    ]


def _joint_targets(stage: Any) -> Pairs:
    """Two modalities or more together, from every subset of the others; all of them from nothing."""
    return [
        (prompts, targets) for prompts, targets in every_direction(stage.model.config.modalities) if len(targets) > 1
    ]


SHOWN: dict[str, Callable[[Any, Batch, Samples], None]] = {"autoencode": _reconstructions}
DIRECTIONS: dict[str, Callable[[Any], Pairs]] = {"diffuse": _single_targets, "join": _joint_targets}


# ---- writing -----------------------------------------------------------------------------------------------------
def write_samples(samples: Samples, step: int, out: str, log: RunLog) -> None:
    """Write ``samples/step-….png`` and ``.txt``, and tell the trackers the same."""
    from PIL import Image

    if not samples.rows:
        return
    folder = Path(out) / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    shown = in_table_order({row.target for row in samples.rows} | set(samples.truth))
    rows = [(f"{name}: truth", samples.truth[name]) for name in shown if name in samples.truth]
    picture = contact_sheet([*rows, *((row.title, row.values) for row in samples.rows)])
    Image.fromarray((picture * 255.0 + 0.5).astype(np.uint8)).save(folder / f"step-{step:08d}.png")
    log.image(step, "samples", picture)
    text = in_words(samples)
    (folder / f"step-{step:08d}.txt").write_text(text + "\n", encoding="utf-8")
    log.text(step, "samples", text)


def in_words(samples: Samples) -> str:
    """The rows' titles in order, and every text beside its truth."""
    parts = [
        "rows: " + "; ".join([*(f"{name}: truth" for name in samples.truth), *(row.title for row in samples.rows)])
    ]
    for row in samples.rows:
        truth = samples.truth.get(row.target, [None] * len(row.values))
        pairs = [(known, made) for known, made in zip(truth, row.values, strict=True) if isinstance(made, str)]
        if pairs:
            lines = [f"truth:  {known if known is not None else '(none)'}\nresult: {made}\n" for known, made in pairs]
            parts.append(f"== {row.title}\n" + "\n".join(lines))
    return "\n\n".join(parts)
