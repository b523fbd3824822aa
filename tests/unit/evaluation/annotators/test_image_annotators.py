"""Image annotators: torchxrayvision's outputs under CheXpert's names, our classifier with sides, each image annotated once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.annotators.feature_networks import xrv_input
from medcodi.evaluation.annotators.image_annotators import (
    XRV_LABELS,
    ClassifierAnnotator,
    findings_from_probabilities,
    load_image_annotator,
)
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.storage.atomic import sha256_file
from medcodi.study import CHEXPERT_LABELS, Finding
from tests.unit.evaluation.annotators.extractor_files import xrv_file

GENERATOR = np.random.default_rng(0)


def test_xrv_gives_chexperts_labels_from_its_own_outputs(tmp_path: Path) -> None:
    path = xrv_file(tmp_path)
    annotator = load_image_annotator("xrv", weights=path, sha256=sha256_file(path))
    images = [GENERATOR.integers(0, 256, (64, 64), dtype=np.uint8) for _ in range(2)]
    probabilities = annotator.annotate(images, "frontal")
    assert set(annotator.targets) <= set(CHEXPERT_LABELS) and probabilities.shape == (2, 12)
    assert probabilities.min() >= 0 and probabilities.max() <= 1
    network = annotator.network  # type: ignore[attr-defined]
    with torch.inference_mode():
        outputs = network(torch.stack([xrv_input(image) for image in images])).numpy()
    for label, names in XRV_LABELS.items():
        expected = outputs[:, [network.targets.index(name) for name in names]].max(1)
        np.testing.assert_allclose(probabilities[:, annotator.targets.index(label)], expected, rtol=1e-5)
    assert annotator.describe()["labels"]["Pleural Effusion"] == ["Effusion"]
    assert annotator.judged("frontal") == annotator.targets and annotator.judged("lateral") == ()  # trained on frontals
    assert annotator.reads("frontal") and not annotator.reads("lateral")


class Counting(ClassifierAnnotator):
    """Counts the images that its network sees."""

    seen = 0

    def annotate_batch(self, prepared, modality: str) -> np.ndarray:
        self.seen += len(prepared)
        return super().annotate_batch(prepared, modality)


def test_an_image_is_annotated_once_whatever_the_batch(tmp_path: Path) -> None:
    classifier = load_image_annotator("demo").classifier  # type: ignore[attr-defined]
    first, again = (Counting(classifier, LoadRequest(cache=tmp_path)) for _ in range(2))
    images = [GENERATOR.random((32, 32)).astype(np.float32) for _ in range(4)]
    probabilities = first.annotate([*images[:3], images[0]], "frontal")
    assert first.seen == 3
    np.testing.assert_array_equal(probabilities[3], probabilities[0])
    found = again.annotate(images[::-1], "frontal")  # opens the cache as another run does
    assert again.seen == 1
    np.testing.assert_array_equal(found[1:], probabilities[2::-1])
    again.annotate(images[:1], "lateral")  # another head
    assert again.seen == 2 and again.judged("frontal") == first.judged("frontal")
    assert again.identity("frontal") != again.identity("lateral")


def test_ours_annotates_sides_and_unknown_names_are_refused() -> None:
    annotator = load_image_annotator("demo")
    probabilities = annotator.annotate([GENERATOR.random((32, 32)).astype(np.float32)], "frontal")
    assert probabilities.shape == (1, len(annotator.targets)) and "Pneumothorax/left" in annotator.targets
    assert annotator.thresholds("frontal").shape == (len(annotator.targets),)
    assert annotator.annotate([], "frontal").shape == (0, len(annotator.targets))
    with pytest.raises(ConfigError, match="did you mean 'xrv'"):
        load_image_annotator("xrvv")


def test_probabilities_are_the_classifiers_own() -> None:
    annotator = load_image_annotator("demo")
    images = [GENERATOR.integers(0, 256, (32, 32), dtype=np.uint8) for _ in range(3)]
    expected = annotator.classifier.predict([image.astype(np.float32) / 255 for image in images], "lateral")[0]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(annotator.annotate(images, "lateral"), expected)


def test_probabilities_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = pytest.importorskip("torchxrayvision").models.DenseNet()
    network.classifier.bias.data[:] = float("nan")
    torch.save(network.state_dict(), tmp_path / "nan.pt")
    annotator = load_image_annotator("xrv", weights=tmp_path / "nan.pt", sha256=sha256_file(tmp_path / "nan.pt"))
    with pytest.raises(DataError, match="gave NaN"):
        annotator.annotate([np.zeros((8, 8), np.uint8)], "frontal")


TARGETS = ("Cardiomegaly", "Pleural Effusion", "Pleural Effusion/left", "Pleural Effusion/right", "Edema")
THRESHOLDS = np.array([0.5, 0.4, 0.5, 0.5, 0.5])


def column(label: str) -> int:
    return CHEXPERT_LABELS.index(label)


def test_a_probability_at_the_threshold_is_present_and_what_is_not_judged_is_unknown() -> None:
    probabilities = np.array([[0.5, 0.39, 0.9, 0.1, 0.9], [0.49, 0.4, 0.9, 0.1, 0.9]])
    labels, _ = findings_from_probabilities(TARGETS, THRESHOLDS, TARGETS[:4], probabilities)
    assert labels.dtype == np.float32 and labels.shape == (2, 14)
    assert labels[:, column("Cardiomegaly")].tolist() == [1, 0]
    assert labels[:, column("Pleural Effusion")].tolist() == [0, 1]
    assert np.isnan(labels[:, column("Edema")]).all()  # above its threshold, but not judged
    assert np.isnan(labels).sum() == 2 * 12


def test_a_side_counts_only_with_its_label() -> None:
    probabilities = np.array([[0, 0.1, 0.9, 0.0, 0], [0, 0.9, 0.9, 0.6, 0], [0, 0.9, 0.0, 0.0, 0]])
    _, sides = findings_from_probabilities(TARGETS, THRESHOLDS, TARGETS, probabilities)
    effusion = [Finding(label="Pleural Effusion", side=side) for side in ("left", "right")]
    assert sides == [(), tuple(effusion), ()]
    _, sides = findings_from_probabilities(TARGETS, THRESHOLDS, ("Pleural Effusion/left",), probabilities)
    assert sides == [(), (), ()]
