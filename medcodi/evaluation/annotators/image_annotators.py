"""Image annotators: images -> the probability of each finding. Ours for the phantom, torchxrayvision's for real radiographs."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcodi.errors import ConfigError, DataError, one_of
from medcodi.evaluation.annotators.annotator import BatchAnnotator
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.evaluation.annotators.feature_networks import XRV_WEIGHTS, import_xrv, xrv_input, xrv_network
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.metrics.fields import Fields
from medcodi.model import demo_checkpoint
from medcodi.study import CHEXPERT_LABELS, Finding

# torchxrayvision's names of CheXpert's labels; a label with several names takes the largest probability. "Infiltration", "Emphysema",
# "Fibrosis" and "Hernia" are no label of CheXpert's.
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


class ImageAnnotator(BatchAnnotator):
    """Images of one modality -> probabilities of findings and values of a record's fields, float32 ``[N, K + C]``."""

    targets: tuple[str, ...]  # what each column is about: a label, or label/side
    modalities: tuple[str, ...]  # those that it was trained on; it judges nothing in others
    fields: Fields = MappingProxyType({})  # of a record, which the last C columns are about

    def reads(self, modality: str) -> bool:
        """Whether it was trained on a modality."""
        return modality in self.modalities

    @abstractmethod
    def thresholds(self, modality: str) -> np.ndarray:
        """Probabilities from which targets count as present: ``[K]``."""

    @abstractmethod
    def judged(self, modality: str) -> tuple[str, ...]:
        """Targets that it annotates well enough in a modality."""

    def judged_fields(self, modality: str) -> tuple[str, ...]:
        """Fields of a record that it annotates well enough in a modality."""
        return ()

    def identity(self, modality: str) -> str:
        """SHA-256 over name, weights, targets and modality."""
        description = self.describe()
        parts = [self.name, description["weights_sha256"], description.get("labels"), self.targets, modality]
        return hashlib.sha256(repr(["findings", *parts]).encode()).hexdigest()


def findings_from_probabilities(
    targets: Sequence[str], thresholds: np.ndarray, judged: Sequence[str], probabilities: np.ndarray
) -> tuple[np.ndarray, list[tuple[Finding, ...]]]:
    """Labels and sides, by thresholds.

    Args:
        targets: What each column is about: a label, or label/side.
        thresholds: ``[K]``: a target whose probability is at least this is present.
        judged: Targets that are annotated well enough in this modality; others are NaN, and have no side.
        probabilities: ``[N, K]``.

    Returns:
        Labels, float32 ``[N, 14]`` of 0, 1 and NaN (not judged); and the findings that have a side, of each image.
    """
    present = probabilities >= thresholds  # [N, K]
    column_of = {target: column for column, target in enumerate(targets)}
    labels = np.full((len(probabilities), len(CHEXPERT_LABELS)), np.nan, np.float32)
    for column, label in enumerate(CHEXPERT_LABELS):
        if label in judged:
            labels[:, column] = present[:, column_of[label]]
    # A side counts only where its label is present too.
    split = [target.split("/") for target in judged if "/" in target]
    sided = [(label, side, column_of[f"{label}/{side}"], column_of[label]) for label, side in split if label in judged]
    sides = [
        tuple(
            Finding(label=label, side=side)
            for label, side, on_side, any_side in sided
            if row[on_side] and row[any_side]
        )
        for row in present
    ]
    return labels, sides


class ClassifierAnnotator(ImageAnnotator):
    """The finding classifier of this project."""

    def __init__(self, classifier: FindingClassifier, request: LoadRequest | None = None) -> None:
        self.classifier, self.targets = classifier, classifier.config.targets
        self.modalities, self.fields = classifier.config.modalities, classifier.config.record_fields
        super().__init__("demo", classifier.num_rows, request, batch_size=64)

    @classmethod
    def load(cls, request: LoadRequest) -> ClassifierAnnotator:
        """From the folder of the request, or the demo checkpoint; its card holds the hash of its weights."""
        folder = Path(request.weights) if request.weights is not None else demo_checkpoint()
        return cls(FindingClassifier.load(folder).to(request.device), request)

    def prepare(self, value: np.ndarray) -> np.ndarray:
        """uint8 -> float32 in [0, 1]."""
        return value.astype(np.float32) / 255

    def annotate_batch(self, prepared: Sequence[np.ndarray], modality: str) -> np.ndarray:
        """Rows float32 ``[B, K + C]``."""
        return self.classifier.predict(prepared, modality)[0]

    def thresholds(self, modality: str) -> np.ndarray:
        """Those chosen on its validation studies."""
        return self.classifier.thresholds[self.classifier.view(modality)].cpu().numpy()

    def judged(self, modality: str) -> tuple[str, ...]:
        """Targets that it recognises in real held-out images."""
        return self.classifier.judged(modality)

    def judged_fields(self, modality: str) -> tuple[str, ...]:
        """Fields of a record that it recognises in real held-out images."""
        return self.classifier.judged_fields(modality)

    def describe(self) -> dict[str, Any]:
        """Name, hash, data, and what it reached on real held-out images."""
        card = self.classifier.card
        return {
            "name": self.name,
            "weights_sha256": card.get("sha256"),
            "data": card.get("data"),
            "sides": True,
            "measured": card.get("ceiling"),
            **({"measured_record": card["record_ceiling"]} if "record_ceiling" in card else {}),
        }


class XrvAnnotator(ImageAnnotator):
    """torchxrayvision's DenseNet-121 ("all"), frontals only; its outputs are scaled so that its operating points are at 0.5."""

    targets = tuple(XRV_LABELS)
    modalities: tuple[str, ...] = ("frontal",)

    def __init__(self, network: Any, digest: str, request: LoadRequest) -> None:
        super().__init__("xrv", len(self.targets), request)
        self.network, self.digest, self.device = network.to(request.device), digest, request.device
        outputs = list(network.targets)
        self._columns = [[outputs.index(name) for name in names] for names in XRV_LABELS.values()]

    @classmethod
    def load(cls, request: LoadRequest) -> XrvAnnotator:
        """With torchxrayvision's published weights, or those of the request."""
        import_xrv()  # the package first: without it, weights are no use
        path, digest = XRV_WEIGHTS.find("xrv", request)
        return cls(xrv_network(path, digest, XRV_WEIGHTS.sha256), digest, request)

    def prepare(self, value: np.ndarray) -> Tensor:
        """uint8 ``[H, W]`` -> ``[1, 224, 224]``."""
        return xrv_input(value)

    @torch.inference_mode()
    def annotate_batch(self, prepared: Sequence[Tensor], modality: str) -> np.ndarray:
        """Probabilities ``[B, 12]``; a DataError if one is NaN or infinite."""
        # Its 18 outputs, then the largest of those that share a label of CheXpert's.
        outputs = self.network(torch.stack(list(prepared)).to(self.device)).float().cpu().numpy()
        probabilities = np.stack([outputs[:, columns].max(1) for columns in self._columns], axis=1)
        if not np.isfinite(probabilities).all():
            raise DataError("torchxrayvision's classifier gave NaN", fix="check the weights, and look at the images")
        return probabilities

    def thresholds(self, modality: str) -> np.ndarray:
        """0.5 each, by its own scaling."""
        return np.full(len(self.targets), 0.5, np.float32)

    def judged(self, modality: str) -> tuple[str, ...]:
        """All targets in frontals, because nothing was measured here; none in other views, which it was not trained on."""
        return self.targets if modality in self.modalities else ()

    def describe(self) -> dict[str, Any]:
        """Name, hash, and how its names were mapped to CheXpert's."""
        return {
            "name": self.name,
            "weights_sha256": self.digest,
            "labels": {label: list(names) for label, names in XRV_LABELS.items()},
            "sides": False,
            "trained_on": list(self.modalities),
        }


IMAGE_ANNOTATORS: dict[str, Callable[[LoadRequest], ImageAnnotator]] = {
    "demo": ClassifierAnnotator.load,
    "xrv": XrvAnnotator.load,
}


def load_image_annotator(name: str, request: LoadRequest | None = None, **fields: Any) -> ImageAnnotator:
    """Load an image annotator of the table, by a request or its fields; errors as of :func:`features.load_extractor`."""
    load = IMAGE_ANNOTATORS[one_of("image_reader", name, IMAGE_ANNOTATORS, ConfigError)]
    return load(request or LoadRequest(**fields))
