"""The finding classifier: it learns findings and sides, saves whole, refuses what is damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medcodi.errors import CheckpointError, DataError
from medcodi.evaluation.annotators.classifier import (
    CARD_FILE,
    TARGETS,
    WEIGHTS_FILE,
    ClassifierConfig,
    FindingClassifier,
    target_truth,
)
from medcodi.evaluation.annotators.classifier_training import ceiling_table
from medcodi.study import Finding, Study


def test_default_size_is_small() -> None:
    model = ClassifierConfig().build()
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert 64 <= model.feature_dim <= 128


def test_it_learns_findings_and_sides(toy_classifier: FindingClassifier) -> None:
    for modality in ("frontal", "lateral"):
        ceiling = toy_classifier.ceiling(modality)
        for target in ("Pleural Effusion", "Cardiomegaly", "Pleural Effusion/left", "Pleural Effusion/right"):
            assert ceiling[target]["auroc"] > 0.95 and ceiling[target]["f1"] > 0.85, (modality, target, ceiling[target])
    assert "Edema" not in toy_classifier.judged("frontal")  # never present, so never judged
    assert "Cardiomegaly" in ceiling_table(toy_classifier)


def test_save_and_load_give_the_same(toy_classifier: FindingClassifier, toy_dataset, tmp_path) -> None:
    loaded = FindingClassifier.load(toy_classifier.save(tmp_path))
    images = [study.contents["frontal"] for study in toy_dataset(5, seed=9).studies]
    for one, other in zip(toy_classifier.predict(images, "frontal"), loaded.predict(images, "frontal"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.equal(loaded.thresholds, toy_classifier.thresholds)
    assert loaded.ceiling("frontal") == toy_classifier.ceiling("frontal")


def test_an_image_is_read_alike_whatever_the_batch_around_it(toy_classifier: FindingClassifier, toy_dataset) -> None:
    images = [study.contents["frontal"] for study in toy_dataset(7, seed=9).studies]
    together, features = toy_classifier.predict(images, "frontal")
    alone, feature = toy_classifier.predict(images[3:4], "frontal")
    np.testing.assert_allclose(together[3], alone[0], atol=1e-5)
    np.testing.assert_allclose(features[3], feature[0], atol=1e-5)
    assert features.shape == (7, toy_classifier.feature_dim)


def test_other_sizes_are_resized_antialiased(toy_classifier: FindingClassifier, toy_dataset) -> None:
    image = toy_dataset(1, seed=9)[0].contents["frontal"]
    larger = np.kron(image, np.ones((2, 2), np.float32))
    plain, resized = toy_classifier.predict([image], "frontal")[0], toy_classifier.predict([larger], "frontal")[0]
    np.testing.assert_allclose(plain, resized, atol=0.2)


@pytest.mark.parametrize("image", [np.zeros((3, 32, 32)), np.full((32, 32), np.nan)])
def test_what_is_no_image_is_refused(toy_classifier: FindingClassifier, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="is not a finite"):
        toy_classifier.predict([image], "frontal")


def test_an_unknown_view_is_refused(toy_classifier: FindingClassifier) -> None:
    with pytest.raises(DataError, match="classifier view 'report'"):
        toy_classifier.view("report")


def test_damaged_files_are_refused(toy_classifier: FindingClassifier, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no finding classifier"):
        FindingClassifier.load(tmp_path)
    toy_classifier.save(tmp_path)
    whole = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        FindingClassifier.load(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(whole)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps(card | {"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="ceilings were measured"):
        FindingClassifier.load(tmp_path)


def test_truth_of_sides() -> None:
    def truth(**content) -> dict[str, float]:
        return dict(zip(TARGETS, target_truth(Study(study_id="s", patient_id="p", **content)), strict=True))

    one = truth(
        labels={"Pneumothorax": 1.0, "Pleural Effusion": 1.0, "Edema": 0.0, "Pneumonia": -1.0, "Consolidation": 0.0},
        findings=(Finding(label="Pneumothorax", side="left"),),
    )
    assert (one["Pneumothorax/left"], one["Pneumothorax/right"]) == (1, 0)
    assert one["Consolidation/left"] == 0  # absent, so on neither side
    assert one["Edema"] == 0 and np.isnan(one["Pneumonia"]) and np.isnan(one["Fracture"])
    assert np.isnan(one["Pleural Effusion/left"])  # present, but no side is told
    both = truth(labels={"Pneumothorax": 1.0}, findings=(Finding(label="Pneumothorax", side="bilateral"),))
    assert (both["Pneumothorax/left"], both["Pneumothorax/right"]) == (1, 1)
