"""The finding classifier: findings that an image shows, and features for Fréchet distances.

A small residual network, trained here on the phantom (``classifier_training.py``), so that nothing has to be downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medcodi.config import config, from_dict, to_dict
from medcodi.errors import CheckpointError, DataError, one_of
from medcodi.evaluation.annotators.record_head import RecordHead, recognised
from medcodi.modality import names
from medcodi.record import FieldConfig
from medcodi.storage import atomic
from medcodi.storage.checked_json import parse_json
from medcodi.study import CHEXPERT_LABELS, Study

SIDED_LABELS = ("Pleural Effusion", "Pneumothorax", "Consolidation", "Lung Lesion", "Support Devices")
TARGETS = CHEXPERT_LABELS + tuple(f"{label}/{side}" for label in SIDED_LABELS for side in ("left", "right"))
WEIGHTS_FILE, CARD_FILE = "finding_classifier.safetensors", "finding_classifier.json"


@config
class ClassifierConfig:
    """Sizes of the network."""

    image_size: int = 128  # pixels a side of the images it reads
    channels: tuple[int, ...] = (16, 48, 64, 96)  # at 1/2, 1/4, 1/8, 1/16 of the image size
    blocks: tuple[int, ...] = (0, 2, 2, 2)  # residual blocks at each of these resolutions
    targets: tuple[str, ...] = TARGETS  # findings, some with a side, in the order of the outputs
    modalities: tuple[str, ...] = field(default_factory=lambda: names("image"))  # image modalities that it reads
    # fields of a record that it reads as well: name -> field
    record_fields: Annotated[dict[str, FieldConfig], Field(exclude_if=lambda value: not value)] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        # A card may be anybody's: its sizes are bounded before a network of them is built.
        sizes = {"image_size": (self.image_size,), "channels": self.channels, "blocks": self.blocks}
        for (name, values), (low, high) in zip(sizes.items(), ((16, 4096), (1, 4096), (0, 64)), strict=True):
            if not 1 <= len(values) <= 8 or not all(low <= value <= high for value in values):
                raise ValueError(f"{name} is {values}, expected 1 to 8 numbers from {low} to {high}")
        if len(self.targets) > 1000:
            raise ValueError(f"{len(self.targets):,} targets, expected at most 1,000")

    def build(self) -> FindingClassifier:
        """A classifier with fresh weights."""
        return FindingClassifier(self)


class ClassifierBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H / stride, W / stride]``."""
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(hidden)))


class FindingClassifier(nn.Module):
    """Images of any image modality -> one logit per target.

    One trunk serves every view; a view has its own bias after the stem and its own head. The head sees mean and maximum of the last
    map over its left and its right half, so that it can tell sides.
    """

    # float32 [V, K]: probability from which a target counts as present, chosen on validation studies
    thresholds: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.card: dict[str, Any] = {}  # data, ceilings per view and target (see classifier_training.train_classifier)
        # A strided stem, to which each view adds its own bias.
        widths = config.channels
        self.stem = nn.Conv2d(1, widths[0], 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.view_bias = nn.Embedding(len(config.modalities), widths[0])
        # The trunk: every level but the first begins with a block that halves the map.
        layers: list[nn.Module] = []
        for level, (width, repeats) in enumerate(zip(widths, config.blocks, strict=True)):
            for block in range(repeats):
                first = block == 0 and level > 0
                layers.append(ClassifierBlock(widths[level - 1] if first else width, width, 2 if first else 1))
        self.trunk = nn.Sequential(*layers)
        # One head for each view: (mean, maximum) of (left, right) half -> K targets.
        self.head = nn.Linear(4 * widths[-1], len(config.modalities) * len(config.targets))
        self.register_buffer("thresholds", torch.full((len(config.modalities), len(config.targets)), 0.5))
        nn.init.zeros_(self.view_bias.weight)
        fields = config.record_fields
        self.record_head = RecordHead(4 * widths[-1], len(config.modalities), fields) if fields else None

    @property
    def feature_dim(self) -> int:
        """Length of the feature vectors of :meth:`features`."""
        return self.config.channels[-1]

    def feature_map(self, images: Tensor, views: Tensor) -> Tensor:
        """Last map of the trunk, ``[B, C, h, w]``."""
        x = self.stem_norm(self.stem((images - 0.5) * 4)) + self.view_bias(views)[:, :, None, None]
        return self.trunk(F.relu(x))

    def forward(self, images: Tensor, views: Tensor) -> Tensor:
        """Logits ``[B, K + C]`` of images ``[B, 1, S, S]`` in [0, 1], each by the head of its view, long ``[B]`` (see :meth:`view`).

        The last C are the outputs of the record head; C is 0 without one.
        """
        return self.logits_of_map(self.feature_map(images, views), views)

    def logits_of_map(self, feature_map: Tensor, views: Tensor) -> Tensor:
        """The heads: last map ``[B, W, h, w]`` -> logits ``[B, K + C]``."""
        # Image left is the first half of the columns.
        pooled = torch.cat(
            [pool for half in feature_map.chunk(2, dim=-1) for pool in (half.mean((2, 3)), half.amax((2, 3)))], dim=1
        )
        logits = self.head(pooled).unflatten(1, (len(self.config.modalities), -1))  # [B, V, K]
        logits = logits[torch.arange(len(views), device=views.device), views]  # [B, K]
        return logits if self.record_head is None else torch.cat([logits, self.record_head(pooled, views)], dim=1)

    @property
    def num_rows(self) -> int:
        """K + C: length of a row of :meth:`predict`."""
        return len(self.config.targets) + (0 if self.record_head is None else self.record_head.num_columns)

    def view(self, modality: str) -> int:
        """Index of an image modality; a DataError if the classifier was not trained on it."""
        return self.config.modalities.index(one_of("classifier view", modality, self.config.modalities, DataError))

    def prepare(self, images: Sequence[np.ndarray] | Tensor) -> Tensor:
        """Images ``[H, W]`` in [0, 1] -> ``[B, 1, S, S]``, antialiased where they are resized; one that is not finite is a DataError."""
        rows = []
        for index, image in enumerate(images):
            x = torch.as_tensor(np.asarray(image), dtype=torch.float32)
            if x.ndim != 2 or not torch.isfinite(x).all():
                raise DataError(
                    f"image {index} of shape {tuple(x.shape)} is not a finite [H, W] array",
                    fix="look at what made it; no image is replaced",
                )
            if x.shape != (size := (self.config.image_size,) * 2):
                x = F.interpolate(x[None, None], size, mode="bilinear", antialias=True)[0, 0]
            rows.append(x.clamp(0, 1)[None])
        return torch.stack(rows)

    @torch.inference_mode()
    def predict(
        self, images: Sequence[np.ndarray] | Tensor, modality: str, batch_size: int = 64
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows float32 ``[N, K + C]``, and features float32 ``[N, feature_dim]`` (mean of the last map).

        A row holds the probabilities of the targets, then what is read of a record (:meth:`RecordHead.read`).
        """
        was_training, device, num_targets = self.training, self.head.weight.device, len(self.config.targets)
        self.eval()
        rows, features = [], []
        for start in range(0, len(images), batch_size):
            batch = self.prepare(images[start : start + batch_size]).to(device)
            views = torch.full((len(batch),), self.view(modality), device=device)
            last = self.feature_map(batch, views)
            logits = self.logits_of_map(last, views)
            parts = [logits[:, :num_targets].sigmoid().float()]
            if self.record_head is not None:
                parts.append(self.record_head.read(logits[:, num_targets:]))
            rows.append(torch.cat(parts, dim=1).cpu().numpy())
            features.append(last.mean((2, 3)).float().cpu().numpy())
        self.train(was_training)
        # Also of no images at all.
        if not rows:
            return np.zeros((0, self.num_rows), np.float32), np.zeros((0, self.feature_dim), np.float32)
        return np.concatenate(rows), np.concatenate(features)

    def decide(self, probabilities: np.ndarray, modality: str) -> np.ndarray:
        """Probabilities ``[N, K]`` -> 0/1 by the thresholds of this view, float32 ``[N, K]``."""
        return (probabilities >= self.thresholds[self.view(modality)].cpu().numpy()).astype(np.float32)

    def save(self, directory: str | Path) -> Path:
        """Write ``finding_classifier.safetensors`` and ``finding_classifier.json`` into ``directory``."""
        weights, card = Path(directory) / WEIGHTS_FILE, Path(directory) / CARD_FILE
        with atomic.replacing(weights, error=CheckpointError) as partial:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, partial)
        content = {**self.card, "config": to_dict(self.config), "sha256": atomic.sha256_file(weights)}
        atomic.write_text(card, json.dumps(content, indent=1, allow_nan=False) + "\n", error=CheckpointError)
        return Path(directory)

    @classmethod
    def load(cls, directory: str | Path) -> FindingClassifier:
        """Read what :meth:`save` wrote, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: If a file is missing or damaged, or the card was written for other weights.
        """
        weights, card_path = Path(directory) / WEIGHTS_FILE, Path(directory) / CARD_FILE
        if not weights.is_file() or not card_path.is_file():
            raise CheckpointError(
                f"no finding classifier in {directory}",
                expected=f"{WEIGHTS_FILE} and {CARD_FILE}",
                fix="train one: python eval/train_classifier.py; or, for phantoms, classifier=demo",
            )
        try:
            card = parse_json(card_path.read_bytes(), str(card_path), CheckpointError)
            model = from_dict(ClassifierConfig, card.pop("config"), source=str(card_path)).build()
            model.load_state_dict(load_file(weights))
            for figures in (row for view in card.get("ceiling", {}).values() for row in view.values()):
                _ = float(figures["auroc"] or 0), float(figures["positives"] or 0)  # numbers, or refused
        except (LookupError, TypeError, AttributeError, ValueError, OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(
                f"the finding classifier in {directory} cannot be read: {str(error).splitlines()[0]}",
                fix="train or copy it again",
            ) from None
        # The card's ceilings hold for these weights only.
        if (digest := atomic.sha256_file(weights)) != card.get("sha256"):
            raise CheckpointError(
                f"{weights} has sha256 {digest[:12]}…",
                expected=f"{str(card.get('sha256'))[:12]}…, for which its ceilings were measured",
                fix="train or copy both files again",
            )
        model.card = card
        return model.eval()

    def ceiling(self, modality: str) -> dict[str, dict[str, float | None]]:
        """Figures on real held-out images of this view: target -> auroc, f1, precision, recall, positives."""
        return self.card.get("ceiling", {}).get(modality, {})

    def judged(self, modality: str, min_auroc: float = 0.8, min_positives: int = 10) -> tuple[str, ...]:
        """Targets with a held-out AUROC of at least ``min_auroc`` over at least ``min_positives`` positive studies in this view."""
        return tuple(
            target
            for target, figures in self.ceiling(modality).items()
            if (figures["auroc"] or 0) >= min_auroc and (figures["positives"] or 0) >= min_positives
        )

    def judged_fields(self, modality: str) -> tuple[str, ...]:
        """Fields of a record that it recognises in real held-out images of this view."""
        return recognised(self.card.get("record_ceiling", {}).get(modality, {}))


def target_truth(study: Study, targets: Sequence[str] = TARGETS) -> np.ndarray:
    """The true targets of a study: float32 ``[K]`` of 0, 1, NaN (unknown or uncertain).

    A target ``label/side`` is 0 where the label is absent, and unknown where it is present but has no known side.
    """
    values = np.full(len(targets), np.nan, np.float32)
    for k, target in enumerate(targets):
        label, _, side = target.partition("/")
        known = study.labels.get(label)
        if known is None or known == -1 or np.isnan(known):
            continue
        values[k] = known
        # A present label with a side: on this side, or on both.
        if side and known == 1:
            own = [finding for finding in study.findings if finding.label == label and finding.state == "positive"]
            sides = {finding.side for finding in own if finding.side}
            values[k] = float(bool(sides & {side, "bilateral"})) if sides else np.nan
    return values
