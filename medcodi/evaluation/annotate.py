"""The annotators of an evaluation, and the step that annotates: contents in, tables of annotations out.

A shard is annotated by one rank, and its table goes through a folder that all ranks see; the first rank joins the shards and annotates
pairs of contents. Nothing that is scored depends on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
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
from medcodi.evaluation.systems.systems import Outputs
from medcodi.metrics.fields import Fields, encoded_records, expected_values
from medcodi.metrics.similarity import diversity, draw_pairs, image_similarity, similarity_floor
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
    fields: Fields = field(default_factory=dict)  # of records
    aligned: bool = False  # whether positions in the latent space matter in every direction, also of prompts

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
            paired: Whether another target of the same studies is generated: then position in the latent space and geometry matter.

        Raises:
            DataError: For images without an image annotator.
        """
        hashes, kind = [content_sha256(value) for value in values], MODALITIES[modality].kind
        # Records: the values of every draw, and their mean. Nothing else reads them.
        if kind == "table":
            draws = np.stack([encoded_records(self.fields, value) for value in values])  # type: ignore[arg-type]  # [N, S, F]
            arrays = {"draws": draws, "values": expected_values(self.fields, draws)}
            return AnnotationTable(modality, list(rows), hashes, arrays=arrays, fields=self.fields)
        # Texts: labels and sides.
        if kind == "text":
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
                true_images = [np.asarray(image) for image in truth]
                table.arrays.update(image_similarity(images, true_images))
                floors = similarity_floor(images, true_images, patients)
                table.arrays.update({f"{name}{FLOOR}": values for name, values in floors.items()})
        # Texts and images: position in the shared latent space.
        if (paired or self.aligned) and self.encoder is not None and self.encoder.reads(modality):
            table.arrays["latent"] = self.encoder.annotate(values, modality)  # type: ignore[arg-type]  # [N, D]
        return table

    def _annotate_images(self, modality: str, images: list[np.ndarray]) -> AnnotationTable:
        if self.images is None:
            raise DataError(
                f"{modality} images need a finding classifier to be judged",
                fix="name one (classifier=...), trained by eval/train_classifier.py",
            )
        arrays = {f"features/{extractor.name}": extractor.annotate(images, modality) for extractor in self.features}
        annotated = self.images.annotate(images, modality)  # [N, K + C]
        arrays["probabilities"] = probabilities = annotated[:, : len(self.images.targets)]
        if self.images.fields:
            arrays["values"] = annotated[:, len(self.images.targets) :]
        arrays["range"] = np.array([float(np.ptp(image)) for image in images])
        arrays["brightness"] = np.array([float(image.mean()) for image in images])
        targets, judged = self.images.targets, self.images.judged(modality)
        thresholds = self.images.thresholds(modality)
        labels, sides = findings_from_probabilities(targets, thresholds, judged, probabilities)
        arrays |= {"labels": labels, "sides": side_codes(sides)}
        if self.finds_in(modality):  # of every label with a threshold, judged or not; NaN for the others
            columns = [targets.index(label) if label in targets else -1 for label in CHEXPERT_LABELS]
            margin = probabilities[:, columns] - thresholds[columns]  # [N, 14]
            arrays["margin"] = np.where(np.array(columns) < 0, np.nan, margin)
        return AnnotationTable(
            modality, [], arrays=arrays, targets=tuple(targets), judged=tuple(judged), fields=self.images.fields,
            judged_fields=self.images.judged_fields(modality),
        )  # fmt: skip

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
        if self.geometry is None:
            return {}
        views = [name for name in MODALITIES if self.geometry.reads(name)]
        return {
            f"{first}+{second}": list(self.geometry.judged(first, second)) for first, second in combinations(views, 2)
        }


# ---- the step --------------------------------------------------------------------------------------------------------
def annotate_shards(
    annotators: Annotators,
    held_out: HeldOutStudies,
    outputs: Outputs,
    generated: Path,
    work: Path,
    ranks: Ranks,
    on_studies: Callable[[int], None] = lambda num: None,
) -> None:
    """Annotate this rank's share of every system's contents and of the real ones; one table per shard, in ``work``."""
    for system, directions in outputs.items():
        contents = ContentFolder(generated / system)
        for direction, output in directions.items():
            for shard, values in contents.read_shards(direction, ranks.share(output.shards)):
                for target in direction.targets:
                    is_image = MODALITIES[target].kind == "image"
                    truth = held_out.values(target, shard.rows) if is_image and annotators.similarity else None
                    patients = [held_out.patients[row] for row in shard.rows]
                    paired = len(direction.targets) > 1
                    table = annotators.annotate(target, shard.rows, values[target], truth, patients, paired=paired)
                    table.save(_shard_path(table_path(work, system, direction, target), shard.number))
                on_studies(len(shard.rows))
    for modality, paired in sorted(real_modalities(annotators, outputs).items()):
        for shard in ranks.share(held_out.shards(held_out.having([modality]))):
            values = held_out.values(modality, shard.rows)
            table = annotators.annotate(modality, shard.rows, values, paired=paired)
            table.save(_shard_path(real_path(work, modality), shard.number))


def real_modalities(annotators: Annotators, outputs: Outputs) -> dict[str, bool]:
    """Real modalities to annotate: every target (its ceiling), and every prompt with findings; True if targets are paired."""
    directions = [direction for system in outputs.values() for direction in system]
    targets = {target for direction in directions for target in direction.targets}
    prompts = {name for direction in directions for name in direction.prompts if annotators.finds_in(name)}
    paired = {target for direction in directions if len(direction.targets) > 1 for target in direction.targets}
    return {name: name in paired for name in targets | prompts}


def _shard_path(table: Path, number: int) -> Path:
    return table.with_suffix("") / f"{number:05d}.npz"


def write_tables(
    annotators: Annotators,
    held_out: HeldOutStudies,
    outputs: Outputs,
    scored: Mapping[Direction, Sequence[int]],
    generated: Path,
    work: Path,
    folder: Path,
    config: ScoringConfig,
) -> dict[str, dict[Direction, dict[str, list[str]]]]:
    """Join the shards of every table, annotate pairs (report and reference, images of two patients), and write it into ``folder``.

    ``scored``: direction -> the studies that all systems gave; ``generated``: folder of the contents; ``work``: of the shards.

    Returns:
        System -> direction -> target -> SHA-256 of each content.
    """
    # Real contents.
    real = {}
    for modality in real_modalities(annotators, outputs):
        shards = held_out.shards(held_out.having([modality]))
        real[modality] = _joined(real_path(work, modality), [shard.number for shard in shards])
        real[modality].save(real_path(folder, modality))
    hashes: dict[str, dict[Direction, dict[str, list[str]]]] = {}
    real_pairs: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}  # the same in every direction
    # Outputs of every system.
    for system, directions in outputs.items():
        contents = ContentFolder(generated / system)
        for direction, output in directions.items():
            rows = scored[direction]
            for target in direction.targets:
                path = table_path(work, system, direction, target)
                table = _joined(path, [shard.number for shard in output.shards])
                hashes.setdefault(system, {}).setdefault(direction, {})[target] = table.hashes
                if annotators.report_scorers and "text" in config.metrics and MODALITIES[target].kind == "text":
                    table.arrays.update(_report_scores(annotators, table, real[target], held_out, rows, config))
                if "diversity" in config.metrics and pairs_are_scored(target, len(rows), held_out.image_size):
                    values = contents.read_rows(direction, output.shards, rows)
                    images = [np.asarray(values[row][target]) for row in rows]
                    pairs = pair_similarities(held_out, target, rows, images, real_pairs, config)
                    table = replace(table, pairs=pairs)
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
    others = [references[index] for index in moved]
    indices = [table.rows.index(row) for row in rows]  # of the scored studies among those of the table
    arrays = {}
    for scorer in annotators.report_scorers.values():
        for suffix, against in (("", references), (FLOOR, others)):
            for metric, values in scorer.annotate(generated, against).items():
                arrays[f"{REPORT_SCORES}{metric}{suffix}"] = column = np.full(len(table), np.nan)
                column[indices] = values
    return arrays


def pair_similarities(
    held_out: HeldOutStudies,
    target: str,
    rows: Sequence[int],
    images: Sequence[np.ndarray],
    real_pairs: dict[tuple[str, tuple[int, ...]], np.ndarray],
    config: ScoringConfig,
) -> PairSimilarities:
    """MS-SSIM of generated and of real images at the same pairs of different patients; what ``real_pairs`` has is not computed again."""
    patients = [held_out.patients[row] for row in rows]
    pairs = draw_pairs(patients, config.diversity_pairs, config.seed)  # [P, 2]
    # Only the real images of some pair are read.
    used = np.unique(pairs)  # indices into rows
    pairs_of_used = np.searchsorted(used, pairs)
    generated = diversity([images[index] for index in used], pairs_of_used)
    key = target, tuple(rows)
    if key not in real_pairs:
        real = [np.asarray(image) for image in held_out.values(target, [rows[index] for index in used])]
        real_pairs[key] = diversity(real, pairs_of_used).per_pair
    return PairSimilarities(pairs, generated.per_pair, real_pairs[key], generated.num_scales)
