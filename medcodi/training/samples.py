"""Samples while training: what each stage can show of a few studies, as one picture and one text file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from medcodi.data.loading import Batch
from medcodi.model import MedCoDi
from medcodi.randomness import seed_from_keys
from medcodi.training.tracking import RunLog

Value = np.ndarray | str
NUM_STEPS = 20  # of the sampler: enough to see, cheap enough to be seen often


@dataclass(frozen=True)
class Samples:
    """Pairs of truth and result, in columns one below the other.

    Attributes:
        images: Title -> for each study (truth, result), float32 ``[H, W]`` in [0, 1].
        texts: Title -> for each study (truth, result).
    """

    images: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    texts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, title: str, truth: list[Value], result: list[Value]) -> None:
        """Add a column, of images or of texts."""
        pairs = list(zip(truth, result, strict=True))
        table: dict = self.texts if isinstance(result[0], str) else self.images
        table[title] = pairs


def draw_samples(stage: str, model: MedCoDi, batch: Batch, seed: int) -> Samples:
    """What ``stage`` can show on the studies of a batch; nothing where a stage has nothing to show."""
    samples = Samples()
    show = SHOWN.get(stage)
    if show is not None and len(batch):
        show(model, batch, seed, samples)
    return samples


def _values(batch: Batch, name: str) -> list[Value]:
    values = batch.contents[name]
    return list(values) if isinstance(values, list) else list(values[:, 0].float().cpu().numpy())


def _reconstructions(model: MedCoDi, batch: Batch, seed: int, samples: Samples) -> None:
    """Each modality through its autoencoder, by the mean of its posterior."""
    for name in model.config.modalities:
        decoded = model.decode(name, model.latent(name, batch.contents[name]))
        images = decoded[:, 0].float().cpu().numpy() if isinstance(decoded, torch.Tensor) else decoded
        result: list[Value] = [*images]
        samples.add(name, _values(batch, name), result)


def _single_targets(model: MedCoDi, batch: Batch, seed: int, samples: Samples) -> None:
    """Each modality from all others."""
    for name in model.config.modalities:
        _generated(
            model, batch, seed, samples, tuple(other for other in model.config.modalities if other != name), (name,)
        )


def _joint_targets(model: MedCoDi, batch: Batch, seed: int, samples: Samples) -> None:
    """All modalities together from nothing, and all others together from each."""
    names = tuple(model.config.modalities)
    _generated(model, batch, seed, samples, (), names)
    for name in names:
        others = tuple(other for other in names if other != name)
        if len(others) > 1:
            _generated(model, batch, seed, samples, (name,), others)


def _generated(
    model: MedCoDi, batch: Batch, seed: int, samples: Samples, prompts: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    from medcodi.generation import GenerationSettings, generate_batch

    given = {name: _values(batch, name) for name in prompts}
    present = {name: batch.present[name].tolist() for name in prompts}
    requests = [{name: given[name][row] for name in prompts if present[name][row]} for row in range(len(batch))]
    seeds = [seed_from_keys("samples", seed, sample) for sample in batch.samples]
    made = generate_batch(model, requests, targets, seeds, GenerationSettings(num_inference_steps=NUM_STEPS))
    for target in targets:
        title = f"{'+'.join(prompts) or 'nothing'} to {'+'.join(targets)}"
        title = title if len(targets) == 1 else f"{title}, {target}"
        samples.add(title, _values(batch, target), [sample[target] for sample in made])


SHOWN: dict[str, Callable[[MedCoDi, Batch, int, Samples], None]] = {
    "autoencode": _reconstructions,
    "diffuse": _single_targets,
    "join": _joint_targets,
}


def grid(samples: Samples) -> np.ndarray | None:
    """One picture: a pair of rows for each column of images (truth above result); ``[H, W]`` in [0, 1], or None."""
    rows = [
        np.concatenate([pair[index] for pair in pairs], axis=1) for pairs in samples.images.values() for index in (0, 1)
    ]
    return np.clip(np.concatenate(rows, axis=0), 0.0, 1.0) if rows else None


def write_samples(samples: Samples, step: int, out: str, log: RunLog) -> None:
    """Write ``samples/step-….png`` and ``.txt``, and the same to TensorBoard."""
    from PIL import Image

    if not samples.images and not samples.texts:
        return
    folder = Path(out) / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    picture = grid(samples)
    if picture is not None:
        Image.fromarray((picture * 255.0 + 0.5).astype(np.uint8)).save(folder / f"step-{step:08d}.png")
        log.image(step, "samples", picture)
    parts = [f"rows, two each (truth, result): {', '.join(samples.images)}"] if samples.images else []
    parts += [
        f"== {title}\n" + "\n".join(f"truth:  {truth}\nresult: {result}\n" for truth, result in pairs)
        for title, pairs in samples.texts.items()
    ]
    if parts:
        text = "\n\n".join(parts)
        (folder / f"step-{step:08d}.txt").write_text(text + "\n", encoding="utf-8")
        log.text(step, "samples", text)
