"""Model folders: saved and loaded with the same bytes, and what is refused."""

import json
import pickle
from dataclasses import replace

import pytest
import torch

from medcodi.errors import CheckpointError
from medcodi.model import MedCoDi, tiny_model
from medcodi.networks.environment import EnvironmentConfig


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    return tiny_model(seed=0).eval()


@pytest.fixture()
def folder(model, tmp_path):
    return model.save_pretrained(tmp_path / "model")


def test_save_load_save_gives_the_same_bytes(model, folder, tmp_path):
    loaded = MedCoDi.from_pretrained(folder)
    assert loaded.fingerprint() == model.fingerprint() and loaded.config == model.config
    again = loaded.save_pretrained(tmp_path / "again")
    files = sorted(file.name for file in folder.iterdir())
    assert files == sorted(file.name for file in again.iterdir())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_half_precision_file_loads_as_float32_and_is_stable(model, tmp_path):
    half = MedCoDi.from_pretrained(model.save_pretrained(tmp_path / "half", dtype=torch.float16))
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())
    twice = MedCoDi.from_pretrained(half.save_pretrained(tmp_path / "twice", dtype=torch.float16))
    assert half.fingerprint() == twice.fingerprint()


def test_a_model_of_vectors_becomes_one_of_features_with_the_same_denoisers(model, folder, tmp_path):
    """Connectors are in the files of the environment; the denoisers' files may stay, with connectors that nobody uses."""
    features = EnvironmentConfig(kind="features")
    made = MedCoDi.from_pretrained(folder, environment=features, lazy=True)
    with pytest.raises(CheckpointError, match="environment"):
        MedCoDi.from_pretrained(folder, environment=EnvironmentConfig())
    copied = made.save_pretrained(tmp_path / "features")
    assert (copied / "denoiser_frontal.safetensors").read_bytes() == (
        folder / "denoiser_frontal.safetensors"
    ).read_bytes()
    loaded = MedCoDi.from_pretrained(copied)
    assert loaded.config == replace(model.config, environment=features)
    own, theirs = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own if not key.startswith("environment."))
    assert {key for key in theirs.keys() - own.keys() if ".connector." not in key} == {
        key for key in theirs if key.startswith("environment.")
    }
    again = MedCoDi.from_pretrained(loaded.save_pretrained(tmp_path / "again"))
    assert again.fingerprint() == loaded.fingerprint()
    assert (tmp_path / "again/denoiser_frontal.safetensors").stat().st_size < (
        folder / "denoiser_frontal.safetensors"
    ).stat().st_size


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "shape", "nan", "no index", "bad index"])
def test_damaged_checkpoints_are_refused(folder, damage):
    from safetensors.torch import load_file, save_file

    from medcodi.storage.atomic import sha256_file

    file, index_file = folder / "denoiser_frontal.safetensors", folder / "model_index.json"
    index = json.loads(index_file.read_text())
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 255
        file.write_bytes(bytes(data))
    elif damage == "remove":
        file.unlink()
    elif damage == "no index":
        index_file.unlink()
    elif damage == "bad index":
        index_file.write_text("{")
    else:
        state = load_file(file)
        name = next(name for name, value in state.items() if value.dim() == 2)
        state[name] = state[name][:, :-1].clone() if damage == "shape" else torch.full_like(state[name], torch.nan)
        save_file(state, file)
        index["components"]["denoiser_frontal"]["sha256"] = sha256_file(file)
        index_file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"Expected|Fix"):
        MedCoDi.from_pretrained(folder)


def test_a_checkpoint_of_another_size_is_refused(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index["config"]["image_denoiser"]["base_channels"] = 32
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="denoiser_frontal"):
        MedCoDi.from_pretrained(folder)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    file = tmp_path / "model.pt"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickle"):
        MedCoDi.from_pretrained(file)
    assert not (tmp_path / "exploded").exists()


def test_missing_model_names_the_demo(tmp_path):
    with pytest.raises(CheckpointError, match="named demo"):
        MedCoDi.from_pretrained(tmp_path / "nowhere")


def test_saving_over_something_else_is_refused(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CheckpointError, match="holds no model"):
        model.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_saving_anew_keeps_what_is_not_the_models(model, folder):
    (folder / "README.md").write_text("card")
    (folder / "finding_classifier.safetensors").write_bytes(b"weights of another")
    model.save_pretrained(folder)
    assert (folder / "README.md").exists() and (folder / "finding_classifier.safetensors").exists()
    assert MedCoDi.from_pretrained(folder).fingerprint() == model.fingerprint()


def test_components_that_are_still_on_disk_are_copied_without_being_loaded(folder, tmp_path):
    lazy = MedCoDi.from_pretrained(folder, lazy=True)
    copy = lazy.save_pretrained(tmp_path / "copy")
    assert lazy.pending == set(lazy.components())
    assert all((folder / file.name).read_bytes() == file.read_bytes() for file in copy.iterdir())
