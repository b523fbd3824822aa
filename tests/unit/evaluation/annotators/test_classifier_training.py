"""Training of the classifier: the bank of images, augmentation, blur, weights of rare findings, steps that a seed decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medcodi.data.loading import DataConfig
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import ClassifierConfig
from medcodi.evaluation.annotators.classifier_training import (
    MAX_BLUR,
    ClassifierTrainConfig,
    ImageBank,
    augment,
    blurred,
    fit,
    train_classifier,
)
from medcodi.randomness import torch_generator


def test_a_bank_wants_one_size(toy_dataset, small_network: ClassifierConfig) -> None:
    with pytest.raises(DataError, match="the classifier's size"):
        ImageBank.of(toy_dataset(2), ClassifierConfig())
    bank = ImageBank.of(toy_dataset(3), small_network)
    assert len(bank) == 6 and bank.images.dtype == torch.uint8 and bank.views.tolist() == [0, 1] * 3


def test_augmentation_is_a_function_of_its_key_and_stays_in_range() -> None:
    images = torch.rand(4, 1, 32, 32)
    one, other = (augment(images, torch_generator("a", 0)) for _ in range(2))
    assert torch.equal(one, other) and one.min() >= 0 and one.max() <= 1
    assert not torch.equal(one, augment(images, torch_generator("a", 1)))


def test_blur_keeps_brightness_and_0_changes_nothing() -> None:
    images = torch.rand(3, 1, 24, 24)
    images[2] = 0.0
    images[2, 0, 12, 12] = 1.0
    result = blurred(images, torch.tensor([0.0, MAX_BLUR, 1.0]))
    torch.testing.assert_close(result[0], images[0])
    assert result[1].std() < images[1].std() / 2
    # A point becomes the Gaussian: exp(-1/2) of the peak at a distance of one standard deviation, all of them together 1.
    assert result[2].sum().item() == pytest.approx(1, rel=1e-5)
    assert (result[2, 0, 12, 13] / result[2, 0, 12, 12]).item() == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_steps_are_a_function_of_the_seed(toy_dataset, small_network: ClassifierConfig) -> None:
    data = DataConfig(
        source="phantom", num_studies=1, image_size=small_network.image_size
    )  # not built: the bank is given
    config = ClassifierTrainConfig(
        train=data, validation=data, test=data, network=small_network, num_steps=3, batch_size=8, warmup_steps=2
    )
    bank = ImageBank.of(toy_dataset(12), small_network)

    def losses(seed: int) -> list[float]:
        torch.manual_seed(0)
        return fit(small_network.build(), bank, replace(config, seed=seed), quiet=True)

    assert losses(0) == losses(0) != losses(1)


def test_sets_that_share_their_studies_are_refused() -> None:
    data = DataConfig(source="phantom", num_studies=4, image_size=32)
    with pytest.raises(DataError, match="share their studies"):
        train_classifier(ClassifierTrainConfig(train=data, validation=data, test=data), quiet=True)
