"""Annotators: what is annotated of texts and images, floors of likeness, and the join of shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medcodi.distributed import ALONE
from medcodi.errors import DataError
from medcodi.evaluation.annotate import (
    Annotators,
    annotate_shards,
    pair_similarities,
    real_modalities,
    write_tables,
)
from medcodi.evaluation.annotations import AnnotationTable, real_path, table_path
from medcodi.evaluation.annotators.image_annotators import ClassifierAnnotator
from medcodi.evaluation.annotators.report_annotators import REPORT_SCORERS, ReportScorer
from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.studies import HeldOutStudies, content_sha256
from medcodi.evaluation.systems.contents import ContentFolder
from medcodi.evaluation.systems.systems import Output
from medcodi.metrics.similarity import image_similarity, multiscale_ssim
from medcodi.study import CHEXPERT_LABELS, Direction

DIRECTION = Direction.parse("report->frontal")


@pytest.fixture(scope="module")
def annotators(toy_classifier) -> Annotators:
    return Annotators(images=ClassifierAnnotator(toy_classifier), similarity=True)


def test_a_report_has_labels_sides_and_margins() -> None:
    texts = ["There is a small left pleural effusion.", ""]
    table = Annotators().annotate("report", [4, 7], texts)
    column = CHEXPERT_LABELS.index("Pleural Effusion")
    assert table.rows == [4, 7] and table.texts == texts and table.hashes == [content_sha256(text) for text in texts]
    assert table.arrays["labels"][:, column].tolist() == [1, 0] and table.arrays["sides"][:, column].tolist() == [1, 0]
    assert table.arrays["margin"][:, column].tolist() == [0.5, -0.5]


def test_an_image_has_margins_of_every_label_with_a_threshold(annotators: Annotators, toy_dataset) -> None:
    held_out = HeldOutStudies(toy_dataset(6))
    table = annotators.annotate("frontal", range(6), held_out.values("frontal", list(range(6))))
    assert annotators.images is not None
    column, thresholds = CHEXPERT_LABELS.index("Cardiomegaly"), annotators.images.thresholds("frontal")
    target = table.targets.index("Cardiomegaly")
    np.testing.assert_array_equal(
        table.arrays["margin"][:, column], table.arrays["probabilities"][:, target] - thresholds[target]
    )
    np.testing.assert_array_equal(table.arrays["labels"][:, column], table.arrays["margin"][:, column] >= 0)
    assert not {"ssim", "geometry", "latent"} & set(table.arrays)  # there is no truth, no reader of bodies, no encoder


def test_likeness_is_to_the_truth_and_to_the_next_other_patient(annotators: Annotators, toy_dataset) -> None:
    images = HeldOutStudies(toy_dataset(3)).values("frontal", [0, 1, 2])
    arrays = annotators.annotate("frontal", [0, 1, 2], images, images, ["p", "p", "q"]).arrays
    np.testing.assert_allclose(arrays["ssim"], 1)
    expected = [image_similarity([images[row]], [images[other]])["ssim"][0] for row, other in ((0, 2), (1, 2), (2, 0))]
    np.testing.assert_allclose(arrays["ssim_floor"], expected)
    alone = annotators.annotate("frontal", [0, 1], images[:2], images[:2], ["p", "p"]).arrays
    assert np.isnan(alone["psnr_floor"]).all()  # no other patient


def test_images_need_an_annotator() -> None:
    with pytest.raises(DataError, match="need a finding classifier"):
        Annotators().annotate("frontal", [0], [np.zeros((32, 32))])


def test_shards_are_annotated_and_joined(annotators: Annotators, toy_dataset, tmp_path: Path) -> None:
    held_out = HeldOutStudies(toy_dataset(10), shard_size=4)
    outputs = {"truth": {DIRECTION: Output(shards=held_out.shards([0, 1, 2, 5, 6, 9]))}}
    contents = ContentFolder(tmp_path / "generated/truth")
    for shard in outputs["truth"][DIRECTION].shards:
        contents.write(DIRECTION, shard, "", {"frontal": held_out.values("frontal", shard.rows)})
    assert real_modalities(annotators, outputs) == {"frontal": False, "report": False}
    counts: list[int] = []
    generated, work, folder = tmp_path / "generated", tmp_path / "work", tmp_path / "annotations"
    annotate_shards(annotators, held_out, outputs, generated, work, ALONE, counts.append)
    config = ScoringConfig(metrics=("findings",))
    scored = {DIRECTION: [0, 2, 9]}
    hashes = write_tables(annotators, held_out, outputs, scored, generated, work, folder, config)
    assert counts == [3, 2, 1]
    table = AnnotationTable.load(table_path(folder, "truth", DIRECTION, "frontal"))
    assert table.rows == [0, 1, 2, 5, 6, 9] and hashes["truth"][DIRECTION]["frontal"] == table.hashes
    assert table.hashes == [held_out.hashes[row]["frontal"] for row in table.rows] and table.pairs is None
    assert AnnotationTable.load(real_path(folder, "report")).rows == list(range(10))


def test_reports_are_scored_against_their_own_reference_and_another_patients(toy_dataset, tmp_path: Path) -> None:
    """A scorer of other packages' kind: 1 where both reports are equal."""

    def equal(refs: list[str], hyps: list[str]) -> dict[str, list[float]]:
        return {"ratescore": [float(first == second) for first, second in zip(refs, hyps, strict=True)]}

    annotators = Annotators(report_scorers={"ratescore": ReportScorer(REPORT_SCORERS["ratescore"], equal)})
    dataset = toy_dataset(8)
    dataset.studies = [replace(one, contents={"report": f"Report {one.study_id}."}) for one in dataset.studies]
    held_out, direction = HeldOutStudies(dataset), Direction.parse("->report")
    outputs = {"truth": {direction: Output(shards=held_out.shards(range(8)))}}
    (shard,) = outputs["truth"][direction].shards
    ContentFolder(tmp_path / "truth").write(direction, shard, "", {"report": held_out.values("report", shard.rows)})
    annotate_shards(annotators, held_out, outputs, tmp_path, tmp_path / "work", ALONE)
    scored = {direction: [0, 2, 3, 5, 6]}
    write_tables(annotators, held_out, outputs, scored, tmp_path, tmp_path / "work", tmp_path / "new", ScoringConfig())
    arrays = AnnotationTable.load(table_path(tmp_path / "new", "truth", direction, "report")).arrays
    expected = [1, np.nan, 1, 1, np.nan, 1, 1, np.nan]  # NaN where not every system gave the study
    np.testing.assert_array_equal(arrays["report/ratescore"], expected)
    np.testing.assert_array_equal(arrays["report/ratescore_floor"], np.array(expected) - 1)


def test_pairs_are_of_different_patients_and_the_same_for_real_images(toy_dataset) -> None:
    held_out = HeldOutStudies(toy_dataset(6, patients=3))
    rows = [0, 1, 2, 3, 4, 5]
    made, real = ([np.asarray(image) for image in held_out.values(view, rows)] for view in ("lateral", "frontal"))
    known: dict = {}
    pairs = pair_similarities(held_out, "frontal", rows, made, known, ScoringConfig(diversity_pairs=4))
    assert pairs.pairs.shape == (4, 2) and all(first % 3 != second % 3 for first, second in pairs.pairs)
    for images, values in ((made, pairs.generated), (real, pairs.real)):
        first, second = (images[place].astype(np.float64) for place in pairs.pairs[1])
        betas = (0.0448 / 0.3304, 0.2856 / 0.3304)[: pairs.num_scales]
        assert values[1] == pytest.approx(multiscale_ssim(first, second, betas))
    assert list(known) == [("frontal", (0, 1, 2, 3, 4, 5))]
