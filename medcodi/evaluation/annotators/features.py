"""Feature extractors: what Fréchet and kernel distances, precision and recall are computed from; the table has one row each.

A row says everything that makes two figures comparable: the network, its weights and their hash, the size, how images are resized and
scaled. Images are rounded to 8 bits first, so that real and generated images are treated alike.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcodi.errors import ConfigError, DataError, one_of
from medcodi.evaluation.annotators import feature_networks as networks
from medcodi.evaluation.annotators.annotator import BatchAnnotator
from medcodi.evaluation.annotators.feature_networks import XRV_SIZE, XRV_WEIGHTS, FeatureNetwork
from medcodi.evaluation.annotators.weights import LoadRequest, WeightSource
from medcodi.modality import MODALITIES, Kind


@dataclass(frozen=True, kw_only=True)
class ExtractorRow:
    """One feature extractor; what a page prints of it is in words."""

    name: str  # as in configurations and results
    title: str  # for pages and plots
    kinds: tuple[Kind, ...] = ("image",)  # kinds of modalities that it can embed
    input_size: int | None = None  # pixels a side that the network sees; None: as its weights say
    resize: str  # how an image is resized
    normalisation: str  # the range of values that the network sees
    features: str  # which layer
    dim: int | None = None  # length of a feature vector; None: as its weights say
    version: int = 1  # of the preprocessing; part of the identity of stored features
    weights: WeightSource | None = None  # None: this repository, or the model that is evaluated
    # From the row's name, its weight source and a request.
    load: Callable[[str, WeightSource | None, LoadRequest], FeatureNetwork]


_INCEPTION = ExtractorRow(
    name="inception",
    title="Inception-v3 (torch-fidelity)",
    input_size=networks.INCEPTION_SIZE,
    resize="none before the network; inside, TensorFlow 1's bilinear without antialiasing, as torch-fidelity has it",
    normalisation="gray as three colours, (8 bit - 128) / 128",
    features="2048 after the last pooling",
    dim=2048,
    weights=WeightSource(
        file="weights-inception-2015-12-05-6726825d.pth",
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        caches=("~/.cache/torch/hub/checkpoints",),
        licence="Apache-2.0",
    ),
    load=networks.load_inception,
)

_RAD_DINO = ExtractorRow(
    name="rad-dino",
    title="RAD-DINO",
    resize="its own processor's: antialiased bicubic of the short side, centre crop",
    normalisation="its own processor's mean and deviation",
    features="the class token after the last norm",
    weights=WeightSource(
        file="model.safetensors",
        url=f"https://huggingface.co/{networks.RAD_DINO}",
        sha256=None,
        licence="MSRLA",
    ),
    load=networks.load_rad_dino,
)

# A further extractor is one more row here, and a loader in feature_networks.py.
_ROWS = (
    _INCEPTION,
    replace(
        _INCEPTION,
        name="inception-antialiased",
        title="Inception-v3, antialiased",
        resize="antialiased bicubic (Pillow) to 299, 8 bits; nothing is resized inside the network",
        load=networks.load_inception_antialiased,
    ),
    ExtractorRow(
        name="xrv",
        title="DenseNet-121 (torchxrayvision)",
        input_size=XRV_SIZE,
        resize="centre crop to a square, antialiased bilinear to 224",
        normalisation="[-1024, 1024]",
        features="1024, mean of the last map after ReLU",
        dim=1024,
        weights=XRV_WEIGHTS,
        load=networks.load_xrv,
    ),
    _RAD_DINO,
    replace(
        _RAD_DINO,
        name="rad-dino-299",
        title="RAD-DINO, as CheXGenBench",
        resize="antialiased bilinear (Pillow) to 299 × 299, aspect not kept, 8 bits; then as rad-dino",
        load=networks.load_rad_dino_299,
    ),
    ExtractorRow(
        name="demo",
        title="Finding classifier (ours)",
        resize="antialiased bilinear to the classifier's size",
        normalisation="[0, 1]",
        features="mean of the last map",
        load=networks.load_demo,
    ),
    ExtractorRow(
        name="prompt-encoder",
        title="Prompt encoder of the model",
        kinds=("image", "text"),
        resize="antialiased bilinear to the model's image size",
        normalisation="the model's own",
        features="the pooled prompt in the shared latent space, of length 1",
        load=networks.load_prompt_encoder,
    ),
)
EXTRACTORS: dict[str, ExtractorRow] = {row.name: row for row in _ROWS}
ENCODER = "prompt-encoder"  # the row whose features are positions in the shared latent space of a model


class FeatureExtractor(BatchAnnotator):
    """Images or texts -> feature vectors, by the network of a row of the table."""

    def __init__(self, row: ExtractorRow, network: FeatureNetwork, request: LoadRequest | None = None) -> None:
        super().__init__(row.name, network.dim, request)
        self.row, self.network = row, network
        self.num_threads = min(8, os.cpu_count() or 1)

    def reads(self, modality: str) -> bool:
        """Whether it can embed a modality."""
        return modality in MODALITIES and MODALITIES[modality].kind in self.row.kinds

    def identity(self, modality: str) -> str:
        """SHA-256 over row, weights, preprocessing, and the modality, because it chooses the head."""
        settings = sorted(self.network.settings.items())
        parts = [self.name, f"v{self.row.version}", self.network.weights_sha256, modality, settings]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Row, hash of the weights, length, preprocessing."""
        row, digest = self.row, self.network.weights_sha256
        return {
            "name": row.name,
            "title": row.title,
            "input_size": row.input_size or self.network.settings.get("input_size"),
            "resize": row.resize,
            "normalisation": row.normalisation,
            "features": row.features,
            "dim": self.dim,
            "preprocessing_version": row.version,
            "weights_sha256": digest,
            "published_weights": None if row.weights is None else row.weights.sha256 == digest,
            "settings": self.network.settings,
        }

    def prepare(self, value: np.ndarray | str) -> Any:
        """One image (uint8 ``[H, W]``) or text, as the network takes it; a DataError for another kind."""
        kind: Kind = "text" if isinstance(value, str) else "image"
        if kind not in self.row.kinds:
            raise DataError(
                f"the feature extractor {self.name!r} was given a {kind}", expected=" or ".join(self.row.kinds)
            )
        return self.network.prepare(value)

    @torch.inference_mode()
    def annotate_batch(self, prepared: Sequence[Any], modality: str) -> np.ndarray:
        """Features ``[B, D]``; a DataError if the modality is of another kind, or a feature is NaN or infinite."""
        if not self.reads(modality):
            raise DataError(f"the feature extractor {self.name!r} cannot embed {modality!r}")
        embedded: Tensor = self.network.embed(list(prepared), modality)
        features = embedded.float().cpu().numpy()  # [B, D]
        assert features.shape == (len(prepared), self.dim), (features.shape, len(prepared), self.dim)
        # A damaged or half-precision weight file gives NaN, which would spread to every distance.
        bad = np.flatnonzero(~np.isfinite(features).all(1))
        if bad.size:
            raise DataError(
                f"{self.name}: the features of {bad.size} of {len(features)} samples hold NaN or infinity, the first is number {bad[0]}",
                expected="finite features",
                fix="check the weights (a damaged or half-precision file), and look at that image",
            )
        return features


def load_extractor(name: str, request: LoadRequest | None = None, **fields: Any) -> FeatureExtractor:
    """Load the extractor of a row, by a request or its fields: ``load_extractor("xrv", weights="file.pt")``.

    Raises:
        ConfigError: If there is no such row.
        MissingExtraError: If its library is not installed.
        CheckpointError: If its weights are missing (with every way to get them), damaged, or have another hash.
    """
    row = EXTRACTORS[one_of("feature extractor", name, EXTRACTORS, ConfigError)]
    request = request or LoadRequest(**fields)
    return FeatureExtractor(row, row.load(row.name, row.weights, request), request)
