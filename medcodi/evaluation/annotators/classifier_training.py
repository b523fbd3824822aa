"""Training of the finding classifier: images and truth of a dataset -> weights, thresholds, ceilings."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from medcodi.config import config
from medcodi.data.loading import DataConfig, StudyDataset
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import ClassifierConfig, FindingClassifier, target_truth
from medcodi.evaluation.annotators.record_head import measure_reading
from medcodi.metrics.fields import encoded_records
from medcodi.metrics.findings import auroc, best_thresholds, finding_scores
from medcodi.randomness import numpy_generator, torch_generator

MAX_BLUR = 1.6  # pixels: as soft as an autoencoder's images can be, so that findings do not depend on sharpness


@config
class ClassifierTrainConfig:
    """Data, network and schedule of the classifier's training."""

    recipes: ClassVar[str] = "eval"  # folder of configs/ with recipes for this config

    train: DataConfig  # studies that train the weights
    validation: DataConfig  # thresholds are chosen here
    test: DataConfig  # ceilings are measured here
    out: str = "checkpoints/demo"  # folder of the classifier's files
    network: ClassifierConfig = field(default_factory=ClassifierConfig)  # size of the classifier
    num_steps: int = 1600  # optimiser steps
    batch_size: int = 96  # images, of all views
    learning_rate: float = 4e-3  # highest learning rate
    weight_decay: float = 1e-2  # decoupled decay of the weights
    warmup_steps: int = 100  # steps in which the learning rate rises from 0
    seed: int = 0  # of the weights and of the order of the images
    device: str = "cpu"  # of the training


@dataclass(frozen=True)
class ImageBank:
    """Every image of a dataset in memory, 8 bits a pixel, with the truth of its study."""

    images: Tensor  # uint8 [M, S, S]
    views: Tensor  # int64 [M], index of the view
    truth: Tensor  # float32 [M, K] of 0, 1, NaN
    values: Tensor  # float32 [M, F], values of the record's fields, NaN where unknown

    @classmethod
    def of(cls, dataset: StudyDataset, network: ClassifierConfig, title: str = "reading") -> ImageBank:
        """Read all studies of a dataset; no image at all, or one of another size than the network's, is a DataError."""
        images, views, truth, records = [], [], [], []
        for index in track(range(len(dataset)), description=title, transient=True):
            study = dataset[index]
            targets = target_truth(study, network.targets)
            for view, modality in enumerate(network.modalities):
                image = study.contents.get(modality)
                if image is None:
                    continue
                image = np.asarray(image)
                if image.shape != (network.image_size,) * 2:
                    raise DataError(
                        f"study {study.study_id!r}: {modality} of shape {image.shape}",
                        expected=f"{network.image_size}x{network.image_size}, the classifier's size",
                        fix="set image_size of the data",
                    )
                images.append(torch.from_numpy(np.round(image * 255).clip(0, 255).astype(np.uint8)))
                views.append(view)
                records.append(study.record or {})
                truth.append(torch.from_numpy(targets))
        if not images:
            raise DataError(
                "no images to train or judge a classifier on",
                expected=f"studies with one of {', '.join(network.modalities)}",
            )
        fields = network.record_fields
        values = encoded_records(fields, records) if fields else np.zeros((len(images), 0))
        return cls(torch.stack(images), torch.tensor(views), torch.stack(truth), torch.from_numpy(values).float())

    def __len__(self) -> int:
        return len(self.images)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``[B, 1, S, S]`` in [0, 1], moved, blurred, with noise and other contrast, as generated ones are. Never mirrored: sides count."""
    batch = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(batch, generator=generator) * (high - low) + low).to(images.device)

    # A small rotation, zoom and shift of each image.
    ranges = ((-0.07, 0.07), (0.94, 1.06), (-0.06, 0.06), (-0.06, 0.06))
    angle, zoom, shift_x, shift_y = (uniform(*ends) for ends in ranges)
    rows = [
        torch.stack([zoom * angle.cos(), -zoom * angle.sin(), shift_x], 1),
        torch.stack([zoom * angle.sin(), zoom * angle.cos(), shift_y], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    column = (slice(None), None, None, None)
    # Blur, contrast and brightness about the mean, noise: each with its own strength per image.
    moved = blurred(moved, uniform(-MAX_BLUR, MAX_BLUR).clamp(min=0))  # none for half of the images
    mean = moved.mean((2, 3), keepdim=True)
    contrast = (moved - mean) * uniform(0.85, 1.15)[column] + mean + uniform(-0.06, 0.06)[column]
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return (contrast + noise * uniform(-0.03, 0.03).clamp(min=0)[column]).clamp(0, 1)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Images ``[B, 1, S, S]``, each blurred by a Gaussian of its own standard deviation ``[B]``, in pixels; 0 changes nothing."""
    reach = math.ceil(2.5 * MAX_BLUR)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernels = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]).square())  # [B, 2 reach + 1]
    kernels = kernels / kernels.sum(1, keepdim=True)
    # Rows, then columns: a Gaussian is separable.
    rows = F.pad(images.transpose(0, 1), (reach,) * 4, mode="replicate")  # the batch as channels
    rows = F.conv2d(rows, kernels[:, None, :, None], groups=len(images))
    return F.conv2d(rows, kernels[:, None, None, :], groups=len(images)).transpose(0, 1)


def finding_loss(logits: Tensor, truth: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over known findings: logits ``[..., K]``, truth of 0, 1, NaN; ``present``: rows that count, None: all."""
    known = ~truth.isnan() if present is None else ~truth.isnan() & present[..., None]
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), truth.nan_to_num(0.0), pos_weight=weights, reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


def learning_rate(step: int, options: Any) -> float:
    """Linear warm-up over ``options.warmup_steps`` to ``options.learning_rate``, cosine decay to 0 over ``options.num_steps``."""
    warm = min((step + 1) / max(options.warmup_steps, 1), 1.0)
    return options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / options.num_steps))


def _positive_weight(truth: Tensor) -> Tensor:
    """Square root of the odds against each target, within [1, 8]: float32 ``[K]``."""
    rate = truth.nanmean(0).nan_to_num(0.5).clamp(1e-3, 1)
    return ((1 - rate) / rate).sqrt().clamp(1, 8)


def fit(
    model: FindingClassifier, bank: ImageBank, options: ClassifierTrainConfig, *, quiet: bool = False
) -> list[float]:
    """Train in place with AdamW, warm-up and cosine decay, bfloat16 autocast; gives the loss of every step.

    Batches and augmentation are functions of (seed, step).
    """
    device = torch.device(options.device)
    model.to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]  # several times faster than NCHW on CPUs with AMX
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    weight, num_targets = _positive_weight(bank.truth).to(device), len(model.config.targets)
    if model.record_head is not None:
        model.record_head.fit(bank.values)
    per_epoch = max(len(bank) // options.batch_size, 1)
    losses: list[float] = []
    for step in track(range(options.num_steps), description="training the finding classifier", disable=quiet):
        # Draw the rows of this step from the permutation of its epoch.
        epoch, batch = divmod(step, per_epoch)
        if batch == 0:
            order = torch.from_numpy(numpy_generator("classifier epoch", options.seed, epoch).permutation(len(bank)))
        rows = order[batch * options.batch_size : (batch + 1) * options.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        # Forward on augmented images.
        images = bank.images[rows].to(device).float().div(255)[:, None]
        images = augment(images, torch_generator("classifier augmentation", options.seed, step)).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model(images, bank.views[rows].to(device))
        loss = finding_loss(logits[:, :num_targets], bank.truth[rows].to(device), weight)
        if model.record_head is not None:
            loss = loss + model.record_head.loss(logits[:, num_targets:], bank.values[rows].to(device))
        # Backward and update.
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    model.to(memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]
    return losses


def rows_by_view(model: FindingClassifier, bank: ImageBank) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Modality -> truth ``[M_v, K]``, values of the record ``[M_v, F]``, predicted rows ``[M_v, K + C]``, in float32 without autocast."""
    result = {}
    for view, modality in enumerate(model.config.modalities):
        rows = torch.nonzero(bank.views == view)[:, 0]
        images = bank.images[rows]
        parts = [
            model.predict(images[start : start + 256].float().div(255), modality)[0]
            for start in range(0, len(rows), 256)
        ]
        if parts:
            result[modality] = bank.truth[rows].numpy(), bank.values[rows].numpy(), np.concatenate(parts)
    return result


def choose_thresholds(model: FindingClassifier, bank: ImageBank) -> None:
    """Set the thresholds of each view to the best F1 on validation studies."""
    for modality, (truth, _, rows) in rows_by_view(model, bank).items():
        thresholds = best_thresholds(truth, rows[:, : len(model.config.targets)])
        model.thresholds[model.view(modality)] = torch.from_numpy(thresholds).float()


def measure_ceiling(model: FindingClassifier, bank: ImageBank) -> dict[str, dict[str, dict[str, float | None]]]:
    """Modality -> target -> auroc, f1, precision, recall, positives, studies, on unseen images (None where undefined)."""
    ceiling: dict[str, dict[str, dict[str, float | None]]] = {}
    for modality, (truth, _, rows) in rows_by_view(model, bank).items():
        probabilities = rows[:, : len(model.config.targets)]
        scores = finding_scores(truth, model.decide(probabilities, modality), model.config.targets)
        ceiling[modality] = {}
        for k, target in enumerate(model.config.targets):
            figures = {"auroc": auroc(truth[:, k], probabilities[:, k]), **scores.per_finding[target]}
            ceiling[modality][target] = {
                name: None if math.isnan(value) else round(value, 5)
                for name, value in figures.items()
                if name != "predicted"
            }
    return ceiling


def measure_record_ceiling(model: FindingClassifier, bank: ImageBank) -> dict[str, dict[str, dict[str, float | None]]]:
    """Modality -> field of a record -> what is read of it in unseen images, see :func:`measure_reading`."""
    num_targets = len(model.config.targets)
    return {
        modality: measure_reading(model.config.record_fields, values, rows[:, num_targets:])
        for modality, (_, values, rows) in rows_by_view(model, bank).items()
    }


def train_classifier(options: ClassifierTrainConfig, *, quiet: bool = False) -> FindingClassifier:
    """Train, choose thresholds on validation studies, measure ceilings on test studies, save under ``options.out``."""
    started = time.monotonic()
    datasets = {name: getattr(options, name).build() for name in ("train", "validation", "test")}
    if len({dataset.fingerprint for dataset in datasets.values()}) < 3:
        raise DataError(
            "train, validation and test of the classifier share their studies",
            expected="three different sets",
            fix="give each its own split or offset",
        )
    # Read all images into memory.
    banks = {
        name: ImageBank.of(dataset, options.network, f"reading {name} studies") for name, dataset in datasets.items()
    }
    # Train on the first set, choose on the second, measure on the third.
    torch.manual_seed(options.seed)
    model = options.network.build()
    loaded = time.monotonic()
    losses = fit(model, banks["train"], options, quiet=quiet)
    trained = time.monotonic()
    model.to("cpu")
    choose_thresholds(model, banks["validation"])
    model.card = {
        "task": "findings of chest images, side included; mean-pooled last map as features of Fréchet distances",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": {
            name: {"name": dataset.name, "fingerprint": dataset.fingerprint, "num_studies": len(dataset)}
            for name, dataset in datasets.items()
        },
        "training": {
            "num_steps": options.num_steps,
            "batch_size": options.batch_size,
            "seed": options.seed,
            "final_loss": round(float(np.mean(losses[-50:])), 4),
            "read_seconds": round(loaded - started, 1),
            "train_seconds": round(trained - loaded, 1),
            "device": options.device,
            "torch": torch.__version__,
        },
        "thresholds": "best F1 on the validation studies, per view and target",
        "ceiling": measure_ceiling(model, banks["test"]),
    }
    if options.network.record_fields:
        model.card["record_ceiling"] = measure_record_ceiling(model, banks["test"])
    model.save(Path(options.out))
    return model


def ceiling_table(model: FindingClassifier, columns: Sequence[str] = ("auroc", "f1", "positives")) -> str:
    """The ceilings as plain text lines, one per view and target."""
    lines = [f"{'view':9}{'target':28}" + "".join(f"{column:>11}" for column in columns)]
    for modality in model.config.modalities:
        for target, figures in model.ceiling(modality).items():
            if figures["positives"]:
                lines.append(f"{modality:9}{target:28}" + "".join(f"{figures[column]!s:>11.7}" for column in columns))
    return "\n".join(lines)
