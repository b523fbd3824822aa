"""torchxrayvision's network and preprocessing: the published pickle, the extra, centre crop and scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.errors import CheckpointError, MissingExtraError
from medcodi.evaluation.annotators.xrv import xrv_input, xrv_network
from medcodi.storage.atomic import sha256_file
from tests.unit.evaluation.annotators.extractor_files import own_weights, xrv_file

IMAGES = [np.random.default_rng(index).integers(0, 256, (40, 40), dtype=np.uint8) for index in range(3)]


def test_the_published_whole_module_is_read_only_where_its_hash_is_known(tmp_path: Path, xrv: Path) -> None:
    whole = xrv_file(tmp_path, whole=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        own_weights("xrv", whole)
    digest = sha256_file(whole)
    state = xrv_network(whole, digest, digest).state_dict()
    expected = torch.load(xrv)
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_input_is_the_scaled_centre_of_the_image() -> None:
    """224 of 300 columns in the middle; 0 becomes -1024, 255 becomes 1024; other sizes are resized."""
    image = np.zeros((224, 300), np.uint8)
    image[:, 38:262] = 255
    pixels = xrv_input(image)
    assert pixels.shape == (1, 224, 224) and (pixels == 1024).all()
    assert xrv_input(np.zeros((10, 30), np.uint8)).shape == (1, 224, 224)
    assert (xrv_input(np.zeros((10, 30), np.uint8)) == -1024).all()


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchxrayvision", None)
    with pytest.raises(MissingExtraError, match="torchxrayvision.*medcodi\\[eval\\]"):
        xrv_network(Path("x"), "", None)
