"""Weight files with random weights, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.evaluation.annotators.extractor_files import inception_file, rad_dino_folder, xrv_file


@pytest.fixture(scope="session")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torch-fidelity's Inception-v3."""
    return inception_file(tmp_path_factory.mktemp("inception"))


@pytest.fixture(scope="session")
def xrv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchxrayvision's DenseNet-121."""
    return xrv_file(tmp_path_factory.mktemp("xrv"))


@pytest.fixture(scope="session")
def rad_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAD-DINO at tiny size."""
    return rad_dino_folder(tmp_path_factory.mktemp("rad-dino"))
