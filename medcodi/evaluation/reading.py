"""What is read from contents, block by block: findings, features, likeness to the truth, place in the shared latent space.

A block is read by one rank; the arrays go through the folder of the evaluation, so that the rank that scores never holds an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from medcodi.errors import DataError
from medcodi.evaluation.annotators.features import FeatureExtractor
from medcodi.evaluation.annotators.findings import FindingAnnotations, findings_from_probabilities
from medcodi.evaluation.annotators.geometry import GeometryAnnotator
from medcodi.evaluation.annotators.image_annotators import ImageAnnotator
from medcodi.evaluation.annotators.report_labelers import ReportLabeler, load_labeler
from medcodi.evaluation.annotators.report_scorers import ReportScorer
from medcodi.evaluation.held_out import Value, content_sha256
from medcodi.metrics.bootstrap import known_mean
from medcodi.metrics.similarity import image_similarity
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS

CONSTANT = 0.02  # of the range: an image that spans less shows nothing


@dataclass
class ContentReading:
    """What was read from N contents of one modality.

    Attributes:
        target: The modality.
        hashes: SHA-256 of each content, as judged.
        texts: Of a text modality.
        arrays: Name -> ``[N, ...]``: ``probabilities``, ``features/<extractor>``, ``latent``, ``geometry``, ``range``, ``brightness``,
            ``ssim``, ``psnr`` and their floors ``ssim_floor``, ``psnr_floor``.
    """

    target: str
    hashes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hashes)

    def rows(self, chosen: Sequence[int]) -> ContentReading:
        """Of some of the studies."""
        places = list(chosen)
        return ContentReading(
            self.target,
            [self.hashes[place] for place in places],
            [self.texts[place] for place in places] if self.texts else [],
            {name: array[places] for name, array in self.arrays.items()},
        )

    @classmethod
    def together(cls, target: str, parts: Sequence[ContentReading]) -> ContentReading:
        """Blocks one after the other."""
        present = set.intersection(*(set(part.arrays) for part in parts)) if parts else set()
        return cls(
            target,
            [one for part in parts for one in part.hashes],
            [one for part in parts for one in part.texts],
            {name: np.concatenate([part.arrays[name] for part in parts]) for name in sorted(present)},
        )

    def save(self, path: Path) -> None:
        """Write, all or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            held: dict[str, Any] = {"_hashes": np.array(self.hashes), "_texts": np.array(json.dumps(self.texts))}
            np.savez(file, **{**held, **self.arrays})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, target: str) -> ContentReading:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: If another rank did not write it where this one looks.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                held = {name: arrays[name] for name in arrays.files if not name.startswith("_")}
                return cls(target, arrays["_hashes"].tolist(), json.loads(str(arrays["_texts"])), held)
        except (OSError, ValueError, KeyError, BadZipFile):
            raise DataError(
                f"the readings of another rank are not at {path}",
                expected="one folder that all ranks see",
                fix="give an out on a file system that all machines share",
            ) from None


class Readers:
    """Everything that reads contents.

    Attributes:
        images: Of findings in images; None: no image is judged.
        labeler: Of findings in reports.
        features: Extractors of features.
        encoder: Of the shared latent space that coherence is measured in; None: not measured.
        similarity: Whether images are compared with the true one.
        geometry: Of bodies in images, where they are phantoms.
        report_scorers: Name -> scorer of pairs of reports, by other packages.
    """

    def __init__(
        self,
        images: ImageAnnotator | None,
        features: Sequence[FeatureExtractor] = (),
        encoder: FeatureExtractor | None = None,
        similarity: bool = False,
        labeler: ReportLabeler | None = None,
        report_scorers: Mapping[str, ReportScorer] | None = None,
        geometry: GeometryAnnotator | None = None,
    ) -> None:
        self.images, self.features, self.encoder, self.similarity = images, tuple(features), encoder, similarity
        self.geometry = geometry
        self.labeler, self.report_scorers = labeler or load_labeler("rules"), report_scorers or {}

    def read(
        self,
        target: str,
        values: Sequence[Value],
        truth: Sequence[Value] | None = None,
        patients: Sequence[str] = (),
        *,
        paired: bool = True,
    ) -> ContentReading:
        """Read a block.

        Args:
            target: The modality.
            values: Contents.
            truth: The true ones, for generated images.
            patients: Of each; the floor of a likeness is that to the next true image of another patient in the block.
            paired: Whether it is held against another target of the same study: place in the latent space, geometry.

        Raises:
            DataError: If images are to be judged without a classifier.
        """
        reading = ContentReading(target, [content_sha256(value) for value in values])
        if MODALITIES[target].kind == "text":
            reading.texts = [str(value) for value in values]
        else:
            images = [np.asarray(value, dtype=np.float32) for value in values]
            reading.arrays |= self._of_images(target, images)
            if paired and self.geometry is not None and self.geometry.reads(target):
                reading.arrays["geometry"] = self.geometry.annotate(images, target)
            if self.similarity and truth is not None:
                reading.arrays |= _likeness(images, [np.asarray(one) for one in truth], patients)
        if paired and self.encoder is not None and self.encoder.reads(target):
            reading.arrays["latent"] = self.encoder.annotate(values, target)
        return reading

    def _of_images(self, target: str, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        if self.images is None:
            raise DataError(
                f"{target} images cannot be judged without a finding classifier",
                fix="name one (classifier=...), trained by eval/train_classifier.py",
            )
        found = {f"features/{one.name}": one.annotate(images, target) for one in self.features}
        found["probabilities"] = self.images.annotate(images, target)
        found["range"] = np.array([float(np.ptp(image)) for image in images])
        found["brightness"] = np.array([float(image.mean()) for image in images])
        return found

    def can_read(self, modality: str) -> bool:
        """Whether findings are read from a modality here."""
        return MODALITIES[modality].kind == "text" or (self.images is not None and self.images.reads(modality))

    def findings(self, reading: ContentReading) -> FindingAnnotations:
        """Labels and sides of what was read."""
        if MODALITIES[reading.target].kind == "text":
            return self.labeler.finding_annotations(reading.texts)
        assert self.images is not None
        thresholds = self.images.thresholds(reading.target)
        judged = self.judged(reading.target)
        return findings_from_probabilities(self.images.targets, thresholds, judged, reading.arrays["probabilities"])

    def legible(self, prompts: Mapping[str, ContentReading]) -> np.ndarray | None:
        """What the prompts of each study show, read together: float64 ``[N, 14]`` of 0, 1; None where no prompt can be read.

        The mean of the prompts' probabilities is held against the mean of their thresholds; a report says 0 or 1, at 0.5. Every
        finding is read that a prompt's reader has a threshold for, whether or not it tells it well; NaN where none has.
        """
        told = []
        for name, reading in prompts.items():
            if MODALITIES[name].kind == "text":
                told.append((self.labeler.matrix(reading.texts), np.full(len(CHEXPERT_LABELS), 0.5)))
            elif self.images is not None and self.can_read(name) and "probabilities" in reading.arrays:
                targets = self.images.targets
                columns = [targets.index(label) if label in targets else -1 for label in CHEXPERT_LABELS]
                absent = np.array(columns) < 0
                probabilities = np.where(absent, np.nan, reading.arrays["probabilities"][:, columns])
                told.append((probabilities, np.where(absent, np.nan, self.images.thresholds(name)[columns])))
        if not told:
            return None
        margins = np.stack([probabilities - thresholds for probabilities, thresholds in told])
        margin = known_mean(margins, 0)
        return np.where(np.isnan(margin), np.nan, margin >= 0)

    def judged(self, target: str) -> tuple[str, ...]:
        """Findings that can be told in a modality: of our classifier those that it tells in real held-out images."""
        return () if self.images is None else self.images.judged(target)

    def findings_of(self, target: str, values: Sequence[Value]) -> FindingAnnotations:
        """Findings of contents, without anything else."""
        if MODALITIES[target].kind == "text":
            return self.findings(ContentReading(target, texts=[str(value) for value in values]))
        assert self.images is not None
        images = [np.asarray(value, dtype=np.float32) for value in values]
        return self.findings(ContentReading(target, arrays={"probabilities": self.images.annotate(images, target)}))


def _likeness(images: list[np.ndarray], truth: list[np.ndarray], patients: Sequence[str]) -> dict[str, np.ndarray]:
    """SSIM and PSNR to the true image, and to another patient's (NaN where the block holds no other patient)."""
    found = image_similarity(images, truth).per_study
    others = [
        next(
            (place for step in range(1, len(images)) if patients[place := (row + step) % len(images)] != patients[row]),
            None,
        )
        for row in range(len(images))
    ]
    rows = [row for row, other in enumerate(others) if other is not None]
    floors = {name: np.full(len(images), np.nan) for name in found}
    if rows:
        shuffled = image_similarity([images[row] for row in rows], [truth[others[row] or 0] for row in rows]).per_study
        for name, values in shuffled.items():
            floors[name][rows] = values
    return {**found, **{f"{name}_floor": values for name, values in floors.items()}}
