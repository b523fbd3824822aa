"""Artifacts that version 0.1 wrote (``version_0_1/make.py``) still load, and its jobs resume."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from medcodi.config import from_dict, read_yaml
from medcodi.data.dataset import open_dataset
from medcodi.errors import DataError
from medcodi.generation.bulk.job import SynthesisConfig, synthesize
from medcodi.model import MedCoDi
from medcodi.model.generation_config import GenerationConfig
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.training import checkpoint
from medcodi.training.caching import EncodedStudies, cache_key, make_cache
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train

STUDIES = 6


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the artifacts, as the working folder: their paths are relative."""
    shutil.copytree(Path(__file__).with_name("version_0_1"), tmp_path / "artifacts")
    monkeypatch.chdir(tmp_path / "artifacts")
    return tmp_path / "artifacts"


def test_a_prepared_dataset_opens(here: Path) -> None:
    dataset = open_dataset("dataset", "train")
    assert len(dataset) == STUDIES and dataset.image_size == 32
    study = dataset[5]
    assert study.images["lateral"].shape == (32, 32) and study.report and study.patient_id
    assert dataset.fingerprint == json.loads((here / "dataset/dataset_info.json").read_text())["fingerprint"] + "/train"


def test_a_model_folder_loads_and_is_saved_with_the_same_bytes(here: Path) -> None:
    model = MedCoDi.from_pretrained("model")
    assert model.trained_stages == ("autoencode", "align") and model.config.name == "mite"
    model.save_pretrained("again")
    files = sorted(path.name for path in (here / "model").iterdir())
    assert sorted(path.name for path in (here / "again").iterdir()) == sorted([*files, "README.md"])  # the card is new
    for name in files:
        if name.endswith(".safetensors"):
            assert (here / "again" / name).read_bytes() == (here / "model" / name).read_bytes()


def test_a_cache_is_complete_and_its_damage_is_found_and_repaired(here: Path) -> None:
    model, dataset, folder = MedCoDi.from_pretrained("model"), open_dataset("dataset", "train"), here / "cache/train"
    key = cache_key(model, dataset)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    encoded = make_cache(model, dataset, folder, key, verify=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # nothing was encoded
    samples = (0, 5)
    batch = encoded.read_batch(samples)
    stage, draw = build_stage("diffuse", model).eval(), StepRandomness(seed=0, step=0, samples=samples)
    assert torch.isfinite(stage(batch, draw).loss)

    shard = folder / "part-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match="part-00000.npy is missing, cut or damaged"):
        make_cache(model, dataset, folder, key)
    make_cache(model, dataset, folder, key, overwrite=True)
    torch.testing.assert_close(EncodedStudies(folder).read_batch(samples).means["frontal"], batch.means["frontal"])


def test_a_run_resumes_from_its_checkpoint(here: Path) -> None:
    config = from_dict(TrainConfig, {**read_yaml(here / "run/config.yaml"), "steps": 4})
    train(config, resume="latest")
    (newest,) = checkpoint.finished(here / "run/checkpoints")
    assert checkpoint.load(newest).step == 4
    steps = [json.loads(line)["step"] for line in (here / "run/log.jsonl").read_text().splitlines()]
    assert steps[0] == 2 and steps[-1] == 4
    assert MedCoDi.from_pretrained("run/model").trained_stages[-1] == "diffuse"


def test_a_synthesis_resumes(here: Path) -> None:
    with (here / "synthesis/results.csv").open(newline="") as file:
        before = {row["study_id"]: row for row in csv.DictReader(file)}
    shutil.rmtree(here / "synthesis/studies/00000/b")
    (here / "synthesis/results.csv").unlink()
    config = SynthesisConfig(generation=GenerationConfig(num_inference_steps=2), batch_size=2)
    outcome = synthesize("manifest.csv", "synthesis", model="model", config=config, device="cpu")
    assert (outcome.made, outcome.found, outcome.num_pending) == (1, 1, 0)
    with (here / "synthesis/results.csv").open(newline="") as file:
        after = {row["study_id"]: row for row in csv.DictReader(file)}
    # Columns that 0.1 did not write are empty in what it made.
    a = after["a"]
    assert {name: a[name] for name in before["a"]} == before["a"] and list(after) == ["a", "b"]
    assert not any(a[name] for name in a.keys() - before["a"].keys())
