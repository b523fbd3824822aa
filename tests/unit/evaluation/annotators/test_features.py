"""The table of feature extractors: what rows say, what identifies features, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.annotators.features import EXTRACTORS, FeatureExtractor, load_extractor
from tests.unit.evaluation.annotators.extractor_files import own_weights

IMAGES = [np.random.default_rng(index).integers(0, 256, (40, 40), dtype=np.uint8) for index in range(3)]


def test_every_row_says_what_makes_figures_comparable() -> None:
    for name, row in EXTRACTORS.items():
        assert row.name == name and row.resize and row.normalisation and row.features
        assert row.weights is None or row.weights.url.startswith("https://")
    assert all(len(EXTRACTORS[name].weights.sha256 or "") == 64 for name in ("inception", "xrv"))  # type: ignore[union-attr]


def test_unknown_names_kinds_and_modalities_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'inception'"):
        load_extractor("incepton")
    with pytest.raises(ConfigError, match="without a model"):
        load_extractor("prompt-encoder")
    ours = load_extractor("demo")
    with pytest.raises(DataError, match="was given a text"):
        ours.prepare("a report")
    with pytest.raises(DataError, match="cannot embed 'report'"):
        ours.annotate_batch([], "report")


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    models = pytest.importorskip("torchxrayvision").models
    network = models.DenseNet()
    network.features.norm5.weight.data[0] = float("nan")
    torch.save(network.state_dict(), tmp_path / "nan.pt")
    with pytest.raises(DataError, match="xrv: the features of 2 of 2 samples hold NaN.*the first is number 0"):
        own_weights("xrv", tmp_path / "nan.pt").annotate(IMAGES[:2], "frontal")


def test_stored_features_of_the_version_before_are_read() -> None:
    """The identity, and so the folder of the cache, is SHA-256 of row, weights, modality and settings as it always was."""
    network = load_extractor("demo").network
    same = FeatureExtractor(EXTRACTORS["demo"], network)
    parts = ["demo", "v1", network.weights_sha256, "frontal", sorted(network.settings.items())]
    assert same.identity("frontal") == hashlib.sha256(repr(parts).encode()).hexdigest()
    assert same.reads("lateral") and not same.reads("report")
