"""A toy dataset whose findings can be seen at 32 pixels, and a classifier trained on it in seconds."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.evaluation.annotators.classifier import ClassifierConfig, FindingClassifier
from medcodi.evaluation.annotators.classifier_training import ImageBank, choose_thresholds, fit, measure_ceiling
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Finding, Study

SIZE = 32


def toy_study(index: int, seed: int = 0, patients: int | None = None) -> Study:
    """A bright bar low on one side is an effusion, a bright disc in the middle a large heart."""
    draw = numpy_generator("toy", seed, index)
    side, heart = draw.choice(["left", "right", None]), bool(draw.random() < 0.5)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    image = 0.2 + 0.1 * draw.random((SIZE, SIZE))
    if side:
        image[24:, 18:30] += 0.4 if side == "left" else 0.0
        image[24:, 2:14] += 0.4 if side == "right" else 0.0
    if heart:
        image[(rows - 14) ** 2 + (columns - 16) ** 2 < 36] += 0.4
    text = [
        f"There is a small {side} pleural effusion." if side else "No pleural effusion.",
        "The heart is enlarged." if heart else "Heart size is normal.",
    ]
    findings = tuple(Finding(label="Pleural Effusion", side=str(side)) for _ in range(side is not None)) + tuple(
        Finding(label="Cardiomegaly") for _ in range(heart)
    )
    labels = dict.fromkeys(CHEXPERT_LABELS, 0.0) | {
        "Pleural Effusion": float(side is not None),
        "Cardiomegaly": float(heart),
        "No Finding": float(side is None and not heart),
    }
    contents = {
        "frontal": image.astype(np.float32),
        "lateral": np.flip(image, 0).astype(np.float32).copy(),
        "report": " ".join(text),
    }
    return Study(
        study_id=f"toy{index}",
        patient_id=f"patient{index % patients if patients else index}",
        contents=contents,
        labels=labels,
        findings=findings,
    )


class ToyStudies:
    """A dataset of toy studies."""

    def __init__(self, num: int, seed: int = 0, patients: int | None = None) -> None:
        self.studies = [toy_study(index, seed, patients) for index in range(num)]
        self.image_size, self.name, self.fingerprint = SIZE, "toy", f"toy-{num}-{seed}"

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> Study:
        return self.studies[index]


@pytest.fixture(scope="session")
def toy_dataset():
    """The class of toy datasets."""
    return ToyStudies


@pytest.fixture(scope="session")
def small_network() -> ClassifierConfig:
    """The real network at a size for tests."""
    return ClassifierConfig(image_size=SIZE, channels=(8, 12, 16), blocks=(0, 1, 1))


@pytest.fixture(scope="session")
def toy_classifier(small_network: ClassifierConfig) -> FindingClassifier:
    """Trained for a few seconds; knows effusion, its side, and the heart."""
    from medcodi.data.loading import DataConfig
    from medcodi.evaluation.annotators.classifier_training import ClassifierTrainConfig

    data = DataConfig(source="phantom", num_studies=1, image_size=SIZE)  # not built: the banks below are
    options = ClassifierTrainConfig(
        train=data, validation=data, test=data, network=small_network, num_steps=80, batch_size=64, warmup_steps=5
    )
    import torch

    torch.manual_seed(0)
    model = small_network.build()
    fit(model, ImageBank.of(ToyStudies(300, seed=1), small_network), options, quiet=True)
    choose_thresholds(model, ImageBank.of(ToyStudies(100, seed=2), small_network))
    model.card = {
        "ceiling": measure_ceiling(model, ImageBank.of(ToyStudies(150, seed=3), small_network)),
        "sha256": "toy",
    }
    return model
