"""The table of image readers: images -> how likely each finding is. Ours for the phantom, torchxrayvision's for real films."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from medcodi.errors import ConfigError, DataError, one_of
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.evaluation.annotators.extractor_networks import xrv_input, xrv_network
from medcodi.evaluation.annotators.extractor_rows import EXTRACTORS
from medcodi.evaluation.annotators.extractors import ExtractorRequest, eight_bit_pixels
from medcodi.evaluation.annotators.feature_cache import FeatureCache, content_key
from medcodi.evaluation.annotators.weights import check_hash, find_weights

# torchxrayvision's names that are CheXpert's under another name; a label of several names is the likeliest of them. "Infiltration",
# "Emphysema", "Fibrosis" and "Hernia" have no label of CheXpert's.
XRV_LABELS: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": ("Enlarged Cardiomediastinum",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Lung Opacity": ("Lung Opacity",),
    "Lung Lesion": ("Lung Lesion", "Mass", "Nodule"),
    "Edema": ("Edema",),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Atelectasis",),
    "Pneumothorax": ("Pneumothorax",),
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    "Fracture": ("Fracture",),
}


class ImageReader(Protocol):
    """Images of one modality -> probabilities of findings."""

    targets: tuple[str, ...]  # a label, or label/side
    modalities: tuple[str, ...]  # that it was trained on; nothing is judged in others

    def probabilities(self, images: Sequence[np.ndarray], modality: str) -> np.ndarray:
        """float32 ``[N, K]`` in ``targets`` order."""
        ...

    def thresholds(self, modality: str) -> np.ndarray:
        """From which probability on a target counts as present: ``[K]``."""
        ...

    def judged(self, modality: str) -> tuple[str, ...]:
        """Targets that it tells well enough in a modality."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a results bundle says of it."""
        ...


class ClassifierReader:
    """The finding classifier of this project."""

    def __init__(self, classifier: FindingClassifier) -> None:
        self.classifier, self.targets = classifier, classifier.config.targets
        self.modalities = classifier.config.modalities

    def probabilities(self, images: Sequence[np.ndarray], modality: str) -> np.ndarray:
        """float32 ``[N, K]``."""
        return self.classifier.read([np.asarray(image) for image in images], modality)[0]

    def thresholds(self, modality: str) -> np.ndarray:
        """Chosen on its validation studies."""
        return self.classifier.thresholds[self.classifier.view(modality)].cpu().numpy()

    def judged(self, modality: str) -> tuple[str, ...]:
        """Those that it told well in real held-out images."""
        return self.classifier.judged(modality)

    def describe(self) -> dict[str, Any]:
        """Name, hash, data, what it reached on real held-out images."""
        card = self.classifier.card
        told = {"name": "demo", "weights_sha256": card.get("sha256"), "data": card.get("data"), "sides": True}
        return {**told, "measured": card.get("ceiling")}


class XrvReader:
    """Torchxrayvision's DenseNet-121 ("all"), whose outputs are scaled so that its operating points lie at 0.5; frontals only."""

    targets = tuple(XRV_LABELS)
    modalities: tuple[str, ...] = ("frontal",)

    def __init__(self, network: Any, digest: str, device: str | torch.device = "cpu") -> None:
        self.network, self.digest, self.device = network.to(device), digest, device
        names = list(network.targets)
        self._columns = [[names.index(name) for name in told] for told in XRV_LABELS.values()]

    @torch.inference_mode()
    def probabilities(self, images: Sequence[np.ndarray], modality: str) -> np.ndarray:
        """float32 ``[N, 12]``."""
        rows = []
        for start in range(0, len(images), 32):
            batch = torch.stack([xrv_input(eight_bit_pixels(image)) for image in images[start : start + 32]])
            told = self.network(batch.to(self.device)).float().cpu().numpy()
            rows.append(np.stack([told[:, columns].max(1) for columns in self._columns], axis=1))
        found = np.concatenate(rows) if rows else np.zeros((0, len(self.targets)), np.float32)
        if not np.isfinite(found).all():
            raise DataError("torchxrayvision's classifier gave NaN", fix="check the weights, and look at the images")
        return found

    def thresholds(self, modality: str) -> np.ndarray:
        """0.5 each, by its own scaling."""
        return np.full(len(self.targets), 0.5, np.float32)

    def judged(self, modality: str) -> tuple[str, ...]:
        """All of frontals, for nothing was measured here; none of other views, which it never saw."""
        return self.targets if modality in self.modalities else ()

    def describe(self) -> dict[str, Any]:
        """Name, hash, how its names were mapped."""
        labels = {label: list(told) for label, told in XRV_LABELS.items()}
        return {
            "name": "xrv",
            "weights_sha256": self.digest,
            "labels": labels,
            "sides": False,
            "trained_on": list(self.modalities),
        }


class CachedReader:
    """An image reader whose probabilities are kept by content: an image that was read once is not read again.

    Attributes:
        reader: Who reads.
    """

    def __init__(self, reader: ImageReader, root: Path) -> None:
        self.reader, self.targets, self.modalities, self._root = reader, reader.targets, reader.modalities, root
        self._caches: dict[str, FeatureCache] = {}
        self.thresholds, self.judged, self.describe = reader.thresholds, reader.judged, reader.describe

    def _cache(self, modality: str) -> FeatureCache:
        if modality not in self._caches:
            told = {"reader": self.describe(), "targets": list(self.targets), "modality": modality}
            identity = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
            self._caches[modality] = FeatureCache(self._root, identity, len(self.targets), told)
        return self._caches[modality]

    def probabilities(self, images: Sequence[np.ndarray], modality: str) -> np.ndarray:
        """float32 ``[N, K]`` in ``targets`` order."""
        cache = self._cache(modality)
        keys = [content_key(eight_bit_pixels(image)) for image in images]
        known = {key: cache.get(key) for key in keys}
        new = {key: image for key, image in zip(keys, images, strict=True) if known[key] is None}
        if new:
            made = self.reader.probabilities(list(new.values()), modality)
            cache.put(list(new), made)
            cache.flush()
            known |= dict(zip(new, made, strict=True))
        rows = [known[key] for key in keys]
        return np.stack(rows) if rows else np.zeros((0, len(self.targets)), np.float32)  # type: ignore[arg-type]


def _demo(request: ExtractorRequest) -> ImageReader:
    from medcodi.model.shipped import demo_checkpoint

    folder = Path(request.weights) if request.weights is not None else demo_checkpoint()
    return ClassifierReader(FindingClassifier.load(folder).to(request.device))


def _xrv(request: ExtractorRequest) -> ImageReader:
    source = EXTRACTORS["xrv"].weights
    assert source is not None
    path = find_weights("xrv", source, request.weights, download=request.download)
    digest = check_hash("xrv", path, request.sha256 or source.sha256)
    return XrvReader(xrv_network(path, digest, source.sha256), digest, request.device)


@dataclass(frozen=True, kw_only=True)
class ImageReaderRow:
    """One image reader: its name, a title for pages, and how it is loaded."""

    name: str
    title: str
    load: Callable[[ExtractorRequest], ImageReader]


IMAGE_READERS: dict[str, ImageReaderRow] = {
    row.name: row
    for row in (
        ImageReaderRow(name="demo", title="Finding classifier (ours)", load=_demo),
        ImageReaderRow(name="xrv", title="DenseNet-121 (torchxrayvision)", load=_xrv),
    )
}


def load_image_reader(name: str, request: ExtractorRequest | None = None, **options: Any) -> ImageReader:
    """Load an image reader of the table.

    Args:
        name: Of a row.
        request: Weights, device and the like.
        **options: Fields of :class:`ExtractorRequest` instead.

    Raises:
        ConfigError, MissingExtraError, CheckpointError: As :func:`medcodi.evaluation.annotators.extractors.load_extractor`.
    """
    row = IMAGE_READERS[one_of("image reader", name, IMAGE_READERS, ConfigError)]
    return row.load(request or ExtractorRequest(**options))
