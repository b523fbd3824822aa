from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.model import MedCoDi, tiny_model
from tests.unit.training.caching.studies import made


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> MedCoDi:
    fresh = tiny_model(seed=0)
    fresh.trained_stages = ("autoencode", "align", "diffuse")
    return MedCoDi.from_pretrained(fresh.save_pretrained(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="session")
def cache(model: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches") / "train"
    made(model, folder)
    return folder
