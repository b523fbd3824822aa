"""A model has one identity: before it is saved, after it is loaded, lazily or not; it changes with anything in the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medcodi.model import MedCoDi, tiny_model
from medcodi.model.components import component_specs, hash_weights, write_weights
from medcodi.model.identity import component_sha256, index_sha256, model_identity, model_sha256
from medcodi.storage.atomic import sha256_file


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    return tiny_model(seed=0)


@pytest.fixture(scope="module")
def folder(model: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save_pretrained(tmp_path_factory.mktemp("identity") / "model")


def test_a_model_in_memory_has_the_identity_of_its_files(model: MedCoDi, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    assert model.identity() == index_sha256(index) == MedCoDi.from_pretrained(folder).identity()
    assert component_sha256(model.prompt_encoders) == index["components"]["prompt_encoders"]["sha256"]


def test_the_identity_of_files_loads_nothing(folder: Path) -> None:
    lazy = MedCoDi.from_pretrained(folder, lazy=True)
    pending = set(lazy.pending)
    assert model_identity(lazy) == {"name": "tiny", "sha256": lazy.identity(), "trained_stages": []}
    assert lazy.pending == pending == set(lazy.components())


def test_weights_config_and_tokenizers_are_part_of_it(model: MedCoDi) -> None:
    before = model_sha256(model)
    parameter = next(model.denoisers["report"].parameters())
    parameter.data.add_(1e-3)
    assert model_sha256(model) != before
    parameter.data.sub_(1e-3)
    config, model.config = model.config, replace(model.config, environment_scale=2.0)
    assert model_sha256(model) != before
    model.config = config


def test_a_hash_is_that_of_the_written_file(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    specs, state = component_specs(module, torch.float16), module.state_dict()
    assert specs["0.weight"] == ((2, 3), torch.float16)
    assert specs["1.running_mean"] == ((2,), torch.float32)  # a buffer
    assert specs["1.num_batches_tracked"] == ((), torch.int64)
    entry = write_weights(tmp_path / "some.safetensors", specs, state.__getitem__)
    assert hash_weights(specs, state.__getitem__) == entry["sha256"] == sha256_file(tmp_path / "some.safetensors")
