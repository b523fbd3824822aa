"""The annotators of an evaluation, and the step that annotates: contents in, tables of annotations out.

A shard is annotated by one rank and its table goes through a folder that all ranks see; the first rank joins the shards. Nothing that is
scored depends on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.distributed import Ranks
from medcodi.errors import DataError
from medcodi.evaluation.annotations import (
    FLOOR,
    REPORT_SCORES,
    AnnotationTable,
    PairSimilarities,
    real_path,
    side_codes,
    table_path,
)
from medcodi.evaluation.annotators.features import FeatureExtractor
from medcodi.evaluation.annotators.geometry import GeometryAnnotator
from medcodi.evaluation.annotators.image_annotators import ImageAnnotator, findings_from_probabilities
from medcodi.evaluation.annotators.report_annotators import ReportLabeler, ReportScorer, load_labeler
from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.scoring.case import derangements
from medcodi.evaluation.scoring.similarity import pairs_are_scored
from medcodi.evaluation.studies import HeldOutStudies, Value, content_sha256
from medcodi.evaluation.systems.contents import ContentFolder
from medcodi.evaluation.systems.systems import Produced
from medcodi.metrics.similarity import diversity, draw_pairs, image_similarity
from medcodi.modality import MODALITIES, names
from medcodi.study import CHEXPERT_LABELS, Direction


@dataclass
class Annotators:
    """Everything that annotates contents."""

    labeler: ReportLabeler = field(default_factory=lambda: load_labeler("rules"))  # findings in reports
    images: ImageAnnotator | None = None  # findings in images; None: no image is a target
    features: Sequence[FeatureExtractor] = ()  # extractors of features of images
    # of the shared latent space in which coherence is measured; None: it is not measured
    encoder: FeatureExtractor | None = None
    encoder_model: dict[str, Any] | None = None  # name and hash of the model that the encoder belongs to
    geometry: GeometryAnnotator | None = None  # of bodies in images; None for studies that are no phantoms
    report_scorers: Mapping[str, ReportScorer] = field(default_factory=dict)  # of pairs of reports
    similarity: bool = False  # whether images are compared with the true one

    def finds_in(self, modality: str) -> bool:
        """Whether findings are annotated in a modality."""
        return MODALITIES[modality].kind == "text" or (self.images is not None and self.images.reads(modality))

    def annotate(
        self,
        modality: str,
        rows: Sequence[int],
        values: Sequence[Value],
        truth: Sequence[Value] | None = None,
        patients: Sequence[str] = (),
        *,
        paired: bool = True,
    ) -> AnnotationTable:
        """Annotate N contents of one modality.

        Args:
            modality: Which one.
            rows: The studies.
            values: Their contents.
            truth: The true images, for generated ones.
            patients: Of each; the floor of a likeness is that to the next true image of another patient.
            paired: Whether another target of the same studies is generated: then place in the latent space and geometry matter.

        Raises:
            DataError: For images without an image annotator.
        """
        hashes = [content_sha256(value) for value in values]
        # Texts: labels and sides.
        if MODALITIES[modality].kind == "text":
            texts = [str(value) for value in values]
            labels = self.labeler.matrix(texts)  # [N, 14] of 0 and 1; an uncertain mention counts as present
            arrays = {"labels": labels.astype(np.float32), "sides": side_codes(self.labeler.findings(texts))}
            arrays["margin"] = labels - 0.5
            table = AnnotationTable(modality, list(rows), hashes, texts, arrays)
        # Images: labels and sides, features, brightness; likeness to the truth.
        else:
            images = [np.asarray(value, dtype=np.float32) for value in values]
            table = self._annotate_images(modality, images)
            table = replace(table, rows=list(rows), hashes=hashes)
            if paired and self.geometry is not None and self.geometry.reads(modality):
                table.arrays["geometry"] = self.geometry.annotate(images, modality)  # [N, A]
            if self.similarity and truth is not None:
                table.arrays.update(_likeness(images, [np.asarray(image) for image in truth], patients))
        # Both: place in the shared latent space.
        if paired and self.encoder is not None and self.encoder.reads(modality):
            table.arrays["latent"] = self.encoder.annotate(values, modality)  # [N, D]
        return table

    def _annotate_images(self, modality: str, images: list[np.ndarray]) -> AnnotationTable:
        if self.images is None:
            raise DataError(
                f"{modality} images need a finding classifier to be judged",
                fix="name one (classifier=...), trained by eval/train_classifier.py",
            )
        arrays = {f"features/{extractor.name}": extractor.annotate(images, modality) for extractor in self.features}
        arrays["probabilities"] = probabilities = self.images.annotate(images, modality)  # [N, K]
        arrays["range"] = np.array([float(np.ptp(image)) for image in images])
        arrays["brightness"] = np.array([float(image.mean()) for image in images])
        targets, judged, thresholds = (
            self.images.targets,
            self.images.judged(modality),
            self.images.thresholds(modality),
        )
        labels, sides = findings_from_probabilities(targets, thresholds, judged, probabilities)
        arrays |= {"labels": labels, "sides": side_codes(sides)}
        if self.finds_in(modality):  # of every label with a threshold, judged or not; NaN for the others
            columns = [targets.index(label) if label in targets else -1 for label in CHEXPERT_LABELS]
            margin = probabilities[:, columns] - thresholds[columns]  # [N, 14]
            arrays["margin"] = np.where(np.array(columns) < 0, np.nan, margin)
        return AnnotationTable(modality, [], arrays=arrays, targets=tuple(targets), judged=tuple(judged))

    def describe(self) -> dict[str, Any]:
        """``readers`` of ``results.json``: names, hashes of weights, preprocessing and what was measured of them."""
        images = None
        if self.images is not None:
            judged = {name: list(self.images.judged(name)) for name in names("image")}
            images = {**self.images.describe(), "judged": judged}
        return {
            "images": images,
            "reports": self.labeler.describe(),
            "report_scorers": list(self.report_scorers),
            "extractors": {extractor.name: extractor.describe() for extractor in self.features},
            "encoder": self.encoder_model,
        }

    def geometry_attributes(self) -> dict[str, list[int]]:
        """Pair of views (``frontal+lateral``) -> columns of ``geometry`` that are annotated well enough in both."""
        views = [] if self.geometry is None else [name for name in MODALITIES if self.geometry.reads(name)]
        return {
            f"{first}+{second}": list(self.geometry.judged(first, second))
            for place, first in enumerate(views)
            for second in views[place + 1 :]
            if self.geometry is not None
        }


def _likeness(images: list[np.ndarray], truth: list[np.ndarray], patients: Sequence[str]) -> dict[str, np.ndarray]:
    """SSIM and PSNR ``[N]`` to the true image, and to the next one of another patient (NaN if the shard has none)."""
    likeness = image_similarity(images, truth).per_study
    num = len(images)
    others = [
        next((place for step in range(1, num) if patients[place := (row + step) % num] != patients[row]), None)
        for row in range(num)
    ]
    rows = [row for row, other in enumerate(others) if other is not None]
    floors = {name: np.full(num, np.nan) for name in likeness}
    if rows:
        moved = image_similarity([images[row] for row in rows], [truth[others[row] or 0] for row in rows]).per_study
        for name, values in moved.items():
            floors[name][rows] = values
    return {**likeness, **{f"{name}{FLOOR}": values for name, values in floors.items()}}


# ---- the step --------------------------------------------------------------------------------------------------------
Production = Mapping[str, Mapping[Direction, Produced]]  # system -> direction -> what the system gave


def annotate_shards(
    annotators: Annotators,
    held_out: HeldOutStudies,
    produced: Production,
    generated: Path,
    work: Path,
    ranks: Ranks,
    on_studies: Callable[[int], None] = lambda num: None,
) -> None:
    """Annotate this rank's share of every system's contents and of the real ones; one table per shard, in ``work``."""
    for system, directions in produced.items():
        contents = ContentFolder(generated / system)
        for direction, production in directions.items():
            for shard, values in contents.read_shards(direction, ranks.share(production.shards)):
                for target in direction.targets:
                    is_image = MODALITIES[target].kind == "image"
                    truth = held_out.values(target, shard.rows) if is_image and annotators.similarity else None
                    patients = [held_out.patients[row] for row in shard.rows]
                    paired = len(direction.targets) > 1
                    table = annotators.annotate(target, shard.rows, values[target], truth, patients, paired=paired)
                    table.save(_shard_path(table_path(work, system, direction, target), shard.number))
                on_studies(len(shard.rows))
    for modality, paired in sorted(real_modalities(annotators, produced).items()):
        for shard in ranks.share(held_out.shards(held_out.having([modality]))):
            values = held_out.values(modality, shard.rows)
            table = annotators.annotate(modality, shard.rows, values, paired=paired)
            table.save(_shard_path(real_path(work, modality), shard.number))


def real_modalities(annotators: Annotators, produced: Production) -> dict[str, bool]:
    """Real modalities to annotate: every target (its ceiling), and every prompt with findings; True if targets are paired."""
    directions = [direction for system in produced.values() for direction in system]
    targets = {target for direction in directions for target in direction.targets}
    prompts = {name for direction in directions for name in direction.prompts if annotators.finds_in(name)}
    paired = {target for direction in directions if len(direction.targets) > 1 for target in direction.targets}
    return {name: name in paired for name in targets | prompts}


def _shard_path(table: Path, number: int) -> Path:
    return table.with_suffix("") / f"{number:05d}.npz"


def join_shards(
    annotators: Annotators,
    held_out: HeldOutStudies,
    produced: Production,
    scored: Mapping[Direction, Sequence[int]],
    generated: Path,
    work: Path,
    folder: Path,
    config: ScoringConfig,
) -> dict[str, dict[Direction, dict[str, list[str]]]]:
    """Join the shards of every table into ``folder``, and add what relates contents of different studies to each other.

    Args:
        annotators: Who annotated.
        held_out: The real studies.
        produced: What every system gave.
        scored: Direction -> the studies that all systems gave.
        generated: Folder of the contents.
        work: Folder of the shards.
        folder: Of the annotations.
        config: Number of pairs, seed and groups of metrics.

    Returns:
        System -> direction -> target -> SHA-256 of each content.
    """
    real = {}
    for modality in real_modalities(annotators, produced):
        shards = held_out.shards(held_out.having([modality]))
        real[modality] = _joined(real_path(work, modality), [shard.number for shard in shards])
        real[modality].save(real_path(folder, modality))
    hashes: dict[str, dict[Direction, dict[str, list[str]]]] = {}
    known_pairs: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}  # the same real pairs in every direction
    for system, directions in produced.items():
        contents = ContentFolder(generated / system)
        for direction, production in directions.items():
            rows = scored[direction]
            for target in direction.targets:
                path = table_path(work, system, direction, target)
                table = _joined(path, [shard.number for shard in production.shards])
                hashes.setdefault(system, {}).setdefault(direction, {})[target] = table.hashes
                if annotators.report_scorers and "text" in config.metrics and MODALITIES[target].kind == "text":
                    table.arrays.update(_report_scores(annotators, table, real[target], held_out, rows, config))
                if "diversity" in config.metrics and pairs_are_scored(target, len(rows), held_out.image_size):
                    shards = contents.read_rows(direction, production.shards, rows)
                    values = [np.asarray(shards[row][target]) for row in rows]
                    table = replace(table, pairs=join_pairs(held_out, target, rows, values, known_pairs, config))
                table.save(table_path(folder, system, direction, target))
    return hashes


def _joined(table: Path, numbers: Sequence[int]) -> AnnotationTable:
    return AnnotationTable.concatenate([AnnotationTable.load(_shard_path(table, number)) for number in numbers])


def _report_scores(
    annotators: Annotators,
    table: AnnotationTable,
    real: AnnotationTable,
    held_out: HeldOutStudies,
    rows: Sequence[int],
    config: ScoringConfig,
) -> dict[str, np.ndarray]:
    """Scores of each report against its reference, and against another patient's: float64 ``[N]``, NaN if not scored."""
    generated, references = table.at(rows).texts, real.at(rows).texts
    moved = derangements([held_out.patients[row] for row in rows], 1, config.seed)[0]
    others = [references[place] for place in moved]
    places = [table.rows.index(row) for row in rows]
    arrays = {}
    for scorer in annotators.report_scorers.values():
        for suffix, against in (("", references), (FLOOR, others)):
            for metric, values in scorer.annotate(generated, against).items():
                arrays[f"{REPORT_SCORES}{metric}{suffix}"] = column = np.full(len(table), np.nan)
                column[places] = values
    return arrays


def join_pairs(
    held_out: HeldOutStudies,
    target: str,
    rows: Sequence[int],
    values: Sequence[np.ndarray],
    known: dict[tuple[str, tuple[int, ...]], np.ndarray],
    config: ScoringConfig,
) -> PairSimilarities:
    """MS-SSIM of generated and of real images at the same pairs of different patients."""
    patients = [held_out.patients[row] for row in rows]
    pairs = draw_pairs(patients, config.diversity_pairs, config.seed)  # [P, 2]
    # Only the real images of some pair are read.
    used = np.unique(pairs)
    places, owners = np.searchsorted(used, pairs), [patients[place] for place in used]
    generated = diversity([values[place] for place in used], owners, pairs=places)
    if (target, tuple(rows)) not in known:
        real = [np.asarray(image) for image in held_out.values(target, [rows[place] for place in used])]
        known[target, tuple(rows)] = diversity(real, owners, pairs=places).per_pair
    return PairSimilarities(pairs, generated.per_pair, known[target, tuple(rows)], generated.num_scales)
