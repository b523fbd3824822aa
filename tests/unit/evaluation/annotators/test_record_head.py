"""The record head of the finding classifier: what it learns, which fields count, and that classifiers without one stay as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.config import from_dict, to_dict
from medcodi.data.loading import DataConfig
from medcodi.evaluation.annotate import Annotators
from medcodi.evaluation.annotators.classifier import ClassifierConfig, FindingClassifier
from medcodi.evaluation.annotators.classifier_training import (
    ClassifierTrainConfig,
    ImageBank,
    fit,
    measure_ceiling,
    measure_record_ceiling,
)
from medcodi.evaluation.annotators.image_annotators import ClassifierAnnotator
from medcodi.evaluation.annotators.record_head import recognised
from medcodi.randomness import numpy_generator

FIELDS = {"age": {"low": 0, "high": 120}, "sex": {"values": ["F", "M"]}, "haemoglobin": {"low": 3, "high": 25}}


def with_records(dataset):
    """The same studies with a record: age is the brightness of a corner, sex that of another; haemoglobin is not shown."""
    studies = []
    for index, study in enumerate(dataset.studies):
        draw = numpy_generator("record", dataset.fingerprint, index)
        age, sex = float(draw.uniform(20, 90)), str(draw.choice(["F", "M"]))
        image = np.array(study.contents["frontal"])
        image[:6, :10] = age / 100
        image[:6, 22:] = 0.8 if sex == "M" else 0.2
        record = {"age": age, "sex": sex, "haemoglobin": float(draw.uniform(10, 16))}
        if index % 7 == 0:
            del record["age"]
        studies.append(replace(study, contents={"frontal": image, "record": record}))
    dataset.studies = studies
    return dataset


@pytest.fixture(scope="module")
def network(small_network: ClassifierConfig) -> ClassifierConfig:
    return from_dict(ClassifierConfig, {**to_dict(small_network), "record_fields": FIELDS, "modalities": ["frontal"]})


@pytest.fixture(scope="module")
def classifier(network: ClassifierConfig, toy_dataset) -> FindingClassifier:
    data = DataConfig(source="phantom", num_studies=1, image_size=32)  # not built: the banks below are
    options = ClassifierTrainConfig(
        train=data, validation=data, test=data, network=network, num_steps=120, batch_size=64, warmup_steps=5
    )
    torch.manual_seed(0)
    model = network.build()
    fit(model, ImageBank.of(with_records(toy_dataset(300, seed=1)), network), options, quiet=True)
    bank = ImageBank.of(with_records(toy_dataset(100, seed=3)), network)
    model.card = {
        "ceiling": measure_ceiling(model, bank),
        "record_ceiling": measure_record_ceiling(model, bank),
        "sha256": "toy",
    }
    return model


def test_it_reads_what_images_show_and_nothing_else(classifier: FindingClassifier) -> None:
    measured = classifier.card["record_ceiling"]["frontal"]
    assert measured["age"]["r"] > 0.7 and measured["age"]["studies"] == 85
    assert measured["sex"]["auroc"] > 0.95 and measured["sex"]["accuracy"] > 0.9
    assert (measured["haemoglobin"]["r"] or 0) < 0.4
    assert classifier.judged_fields("frontal") == ("age", "sex") and classifier.judged_fields("lateral") == ()


def test_numbers_are_on_their_own_scale_and_categories_probabilities(
    classifier: FindingClassifier, toy_dataset
) -> None:
    studies = with_records(toy_dataset(20, seed=4)).studies
    rows, _ = classifier.predict([study.contents["frontal"] for study in studies], "frontal")
    values = rows[:, len(classifier.config.targets) :]
    assert rows.shape == (20, classifier.num_rows) and values.shape == (20, 4)
    assert values[:, 0].min() > 15 and values[:, 0].max() < 100
    np.testing.assert_allclose(values[:, 1:3].sum(1), 1, rtol=1e-5)
    assert np.all((rows[:, : len(classifier.config.targets)] >= 0) & (rows[:, : len(classifier.config.targets)] <= 1))


def test_it_is_saved_and_annotates(classifier: FindingClassifier, toy_dataset, tmp_path: Path) -> None:
    loaded = FindingClassifier.load(classifier.save(tmp_path))
    images = [study.contents["frontal"] for study in with_records(toy_dataset(6, seed=4)).studies]
    np.testing.assert_array_equal(loaded.predict(images, "frontal")[0], classifier.predict(images, "frontal")[0])
    table = Annotators(images=ClassifierAnnotator(loaded)).annotate("frontal", range(6), images)
    assert table.judged_fields == ("age", "sex") and set(table.fields) == set(FIELDS)
    ages, sexes = (table.values_of(name, loaded.config.record_fields[name]) for name in ("age", "sex"))
    assert ages is not None and ages.shape == (6, 1) and sexes is not None and sexes.shape == (6, 2)
    assert table.arrays["probabilities"].shape == (6, len(loaded.config.targets))
    assert (
        table.values_of("age", replace(loaded.config.record_fields["age"], low=1, scale="log")) is None
    )  # another scale


def test_a_classifier_without_one_is_as_before(toy_classifier: FindingClassifier) -> None:
    assert toy_classifier.record_head is None and toy_classifier.num_rows == len(toy_classifier.config.targets)
    assert "record_fields" not in to_dict(toy_classifier.config) and toy_classifier.judged_fields("frontal") == ()
    assert not any(name.startswith("record") for name in toy_classifier.state_dict())


def test_too_few_studies_prove_nothing() -> None:
    assert recognised({"age": {"r": 0.9, "studies": 19}, "sex": {"auroc": None, "studies": 50}}) == ()
