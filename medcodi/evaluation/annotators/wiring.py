"""Where the protocol meets the table of extractors: the one place to change when it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.evaluation.annotators.extractors import Extractor, ExtractorRequest, load_extractor
from medcodi.evaluation.annotators.feature_cache import FeatureCache
from medcodi.evaluation.annotators.features import Extraction, extract, open_cache
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi

ENCODER = "prompt-encoder"


@dataclass
class FeatureReader:
    """An extractor with its caches, one for each modality.

    Attributes:
        extractor: Whose features.
        cache: Folder of caches; None: nothing is kept.
        batch_size: Contents that the network sees at once.
    """

    extractor: Extractor
    cache: Path | None
    batch_size: int

    def __post_init__(self) -> None:
        self._caches: dict[str, FeatureCache] = {}

    @property
    def name(self) -> str:
        """Of the extractor."""
        return self.extractor.name

    def reads(self, target: str) -> bool:
        """Whether it can embed a modality."""
        return MODALITIES[target].kind in self.extractor.row.kinds

    def features(self, target: str, values: Sequence[np.ndarray | str]) -> np.ndarray:
        """float32 ``[N, D]`` of images ``[H, W]`` in [0, 1], or of texts."""
        if self.cache is not None and target not in self._caches:
            self._caches[target] = open_cache(self.cache, self.extractor, target)
        options = Extraction(batch_size=self.batch_size)
        return extract(self.extractor, values, target, cache=self._caches.get(target), options=options)


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which extractors, with which weights.

    Attributes:
        names: Rows of the table.
        weights: Name -> file or folder of weights, where they do not lie where their library keeps them.
        sha256: Name -> hash that they must have.
        download: Whether published weights may be fetched.
        classifier: Folder of the finding classifier, the network of ``demo``.
        cache: Folder of features kept by content; None: nothing is kept.
        device: Where networks run.
        batch_size: Images that a network sees at once.
    """

    names: Sequence[str] = ("demo",)
    weights: Mapping[str, str]
    sha256: Mapping[str, str]
    download: bool = False
    classifier: str | Path
    cache: Path | None = None
    device: str = "cpu"
    batch_size: int = 32


def open_features(options: FeatureOptions) -> list[FeatureReader]:
    """The extractors that were asked for.

    Raises:
        ConfigError: If one is not known.
        CheckpointError: If its weights are not there; says how to get them.
        MissingExtraError: If its library is not installed.
    """
    found = []
    for name in options.names:
        request = ExtractorRequest(
            weights=options.weights.get(name, options.classifier if name == "demo" else None),
            sha256=options.sha256.get(name),
            device=options.device,
            download=options.download,
        )
        found.append(FeatureReader(load_extractor(name, request), options.cache, options.batch_size))
    return found


def open_encoder(model: MedCoDi, cache: Path | None, batch_size: int) -> FeatureReader:
    """The shared latent space of a model, in which coherence is measured."""
    return FeatureReader(load_extractor(ENCODER, ExtractorRequest(model=model)), cache, batch_size)


def described(readers: Sequence[FeatureReader]) -> dict[str, Any]:
    """Name -> weights' hash, length, preprocessing: what makes two figures comparable."""
    return {reader.name: reader.extractor.describe() for reader in readers}
