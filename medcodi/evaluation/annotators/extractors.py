"""The table of feature extractors: what Fréchet and kernel distances, precision and recall are taken of. One row each.

A row says everything that makes two figures comparable: the network, its weights and their hash, the size, how images are
resized, and how their values are scaled. Images come in as ``[H, W]`` in [0, 1] or uint8; they are brought to 8 bits first, so
that real and generated images are judged alike, whatever they were kept in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medcodi.errors import ConfigError, DataError, one_of
from medcodi.evaluation.annotators.weights import WeightSource
from medcodi.modality import MODALITIES, Kind

if TYPE_CHECKING:
    from medcodi.model import MedCoDi

Value = np.ndarray | str


@dataclass(frozen=True, kw_only=True)
class ExtractorRequest:
    """What a caller asks of a row's loader.

    Attributes:
        weights: File or folder (or hub name) of the weights; None: looked for where its library keeps them.
        sha256: Hash that the weights must have; None: the row's.
        device: Where the network runs.
        model: Whose prompt encoders are meant, where they are.
        download: Whether weights may be fetched.
    """

    weights: str | Path | None = None
    sha256: str | None = None
    device: str | torch.device = "cpu"
    model: MedCoDi | None = None
    download: bool = False


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A network ready to embed.

    Attributes:
        dim: Length of a feature vector.
        weights: SHA-256 of its weights.
        prepare: One image (uint8 ``[H, W]``) or text -> what the network takes; called in threads, before the batch is known.
        embed: A batch of prepared values of one modality -> features ``[B, dim]``; called in one thread.
        settings: What else the figures depend on (a processor's own settings).
    """

    dim: int
    weights: str
    prepare: Callable[[Any], Any]
    embed: Callable[[list[Any], str], Tensor]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExtractorRow:
    """One feature extractor.

    Attributes:
        name: In configurations and results.
        title: For pages and plots.
        kinds: Of modalities that it can embed.
        input_size: Pixels a side that the network sees; None: as its weights say.
        resize: How an image gets there.
        normalisation: What values the network sees.
        features: Which layer, in words.
        dim: Length of a feature vector; None: as its weights say.
        version: Of the preprocessing here; part of the identity of cached features.
        weights: Where its weights come from; None: from this repository or the model that is judged.
        load: Makes the network.
    """

    name: str
    title: str
    kinds: tuple[Kind, ...] = ("image",)
    input_size: int | None
    resize: str
    normalisation: str
    features: str
    dim: int | None
    version: int = 1
    weights: WeightSource | None = None
    load: Callable[[ExtractorRow, ExtractorRequest], LoadedNetwork]


@dataclass(frozen=True)
class Extractor:
    """A loaded feature extractor.

    Attributes:
        row: Its row of the table.
        network: What it runs.
    """

    row: ExtractorRow
    network: LoadedNetwork

    @property
    def name(self) -> str:
        """Name of its row."""
        return self.row.name

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self.network.dim

    def identity(self, modality: str) -> str:
        """SHA-256 over all that a feature depends on besides the image: row, weights, preprocessing, the modality's head."""
        parts = [
            self.name,
            f"v{self.row.version}",
            self.network.weights,
            modality,
            sorted(self.network.settings.items()),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a results bundle says of it."""
        row, source = self.row, self.row.weights
        return {
            "name": row.name,
            "title": row.title,
            "input_size": row.input_size or self.network.settings.get("input_size"),
            "resize": row.resize,
            "normalisation": row.normalisation,
            "features": row.features,
            "dim": self.dim,
            "preprocessing_version": row.version,
            "weights_sha256": self.network.weights,
            "published_weights": None if source is None else source.sha256 == self.network.weights,
            "settings": self.network.settings,
        }

    def prepare(self, value: Value) -> Any:
        """One image or text, as the network takes it.

        Raises:
            DataError: If the extractor cannot embed this kind, or the image is no image.
        """
        kind: Kind = "text" if isinstance(value, str) else "image"
        if kind not in self.row.kinds:
            raise DataError(
                f"the feature extractor {self.name!r} was given a {kind}", expected=" or ".join(self.row.kinds)
            )
        return self.network.prepare(value if isinstance(value, str) else eight_bit_pixels(value))

    @torch.inference_mode()
    def embed(self, prepared: Sequence[Any], modality: str) -> np.ndarray:
        """Features of prepared values of one modality: float32 ``[B, D]``.

        Raises:
            DataError: If a feature is NaN or infinite; says of which.
        """
        if modality not in MODALITIES or MODALITIES[modality].kind not in self.row.kinds:
            raise DataError(f"the feature extractor {self.name!r} cannot embed {modality!r}")
        if not prepared:
            return np.zeros((0, self.dim), np.float32)
        features = self.network.embed(list(prepared), modality).float().cpu().numpy()
        assert features.shape == (len(prepared), self.dim), (features.shape, len(prepared), self.dim)
        bad = np.flatnonzero(~np.isfinite(features).all(1))
        if bad.size:
            raise DataError(
                f"{self.name}: the features of {bad.size} of {len(features)} samples hold NaN or infinity, the first is number {bad[0]}",
                expected="finite features",
                fix="check the weights (a damaged or half-precision file), and look at that image",
            )
        return features

    def __call__(self, values: Sequence[Value], modality: str, batch_size: int = 32) -> np.ndarray:
        """Features of values at once, without a cache: float32 ``[N, D]``."""
        batches = [
            self.embed([self.prepare(value) for value in values[start : start + batch_size]], modality)
            for start in range(0, len(values), batch_size)
        ]
        return np.concatenate(batches) if batches else np.zeros((0, self.dim), np.float32)


def eight_bit_pixels(image: np.ndarray) -> np.ndarray:
    """An image as an 8-bit file holds it: uint8 ``[H, W]``.

    Args:
        image: ``[H, W]``, uint8, or float in [0, 1] (rounded to 256 levels).

    Raises:
        DataError: If it is neither.
    """
    image = np.asarray(image)
    if image.ndim != 2 or not image.size:
        raise DataError(f"an image of shape {image.shape}", expected="[H, W]: one channel")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise DataError(f"an image of {image.dtype}", expected="uint8, or float in [0, 1]", fix="convert it first")
    low, high = float(image.min()), float(image.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
        raise DataError(
            f"an image with values from {low:.4g} to {high:.4g}", expected="finite values in [0, 1]", fix="scale it"
        )
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def load_extractor(name: str, request: ExtractorRequest | None = None, **options: Any) -> Extractor:
    """Load a feature extractor of the table.

    Args:
        name: Of a row.
        request: Weights, device and the like.
        **options: Fields of :class:`ExtractorRequest` instead: ``load_extractor("xrv", weights="file.pt")``.

    Raises:
        ConfigError: If there is no such row.
        MissingExtraError: If its library is not installed.
        CheckpointError: If its weights are missing, damaged, or others than their hash says; says how to get them.
    """
    from medcodi.evaluation.annotators.extractor_rows import EXTRACTORS

    row = EXTRACTORS[one_of("feature extractor", name, EXTRACTORS, ConfigError)]
    return Extractor(row, row.load(row, request or ExtractorRequest(**options)))
