"""The recipes of the demo with a record: every stage runs on the shipped demo, one resumes bitwise, and the result hears a record."""

from pathlib import Path

import numpy as np
import pytest

import medcodi
from medcodi.config import load
from medcodi.recipes import recipe_names
from medcodi.storage.tensors import tensors_in_safetensors
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train

RECIPES = [name for name in recipe_names("train") if "/demo-record/" in name]
DATA = "{source: phantom, num_studies: 4, image_size: 128, version: 2, studies_per_patient: 2}"


def short(recipe: str, root: Path, steps: int = 2, **changes: str) -> TrainConfig:
    """A recipe for two steps of two studies."""
    run = load(TrainConfig, recipe)
    small = {
        "data": DATA,
        "validation": "null",
        "steps": str(steps),
        "optimizer.schedule_horizon": "2",
        "tokenizer_studies": "4",
        "batch.global_size": "2",
        "checkpoint.every": "1",
        "tracking": "{log_every: 1, samples_every: 0, validate_every: 0}",
        "out": str(root / Path(run.out).name),
        **({"cache": str(root / "cache")} if run.cache else {}),
        **({} if run.init == "demo" else {"init": str(root / Path(str(run.init)).parent.name / "model")}),
        **changes,
    }
    return load(TrainConfig, recipe, [f"{key}={value}" for key, value in small.items()])


def weights(model: Path, component: str) -> dict[str, np.ndarray]:
    stored = tensors_in_safetensors(model / f"{component}.safetensors")
    return {name: tensor.read().float().numpy() for name, tensor in stored.items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys() and all(np.array_equal(other[name], value) for name, value in one.items())


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_recipe_runs_on_the_shipped_demo_and_the_first_resumes(tmp_path):
    assert len(RECIPES) == 6
    for recipe in RECIPES:
        train(short(recipe, tmp_path))
    model = medcodi.MedCoDi.from_pretrained(tmp_path / "6-join/model")
    assert model.config == load(type(model.config), "models/demo-record")

    # The run that extends the demo, killed after a step and resumed, ends in the same bytes.
    train(short(RECIPES[0], tmp_path, 1, out=str(tmp_path / "again")))
    train(short(RECIPES[0], tmp_path, 2, out=str(tmp_path / "again")), resume="latest")
    assert_same(*(weights(tmp_path / name / "model", "autoencoder_table") for name in ("1-autoencode", "again")))
    # What every stage freezes is the demo's, bit for bit.
    for component in ("autoencoder_image", "autoencoder_text"):
        assert_same(weights(Path("checkpoints/demo"), component), weights(tmp_path / "6-join/model", component))

    request = {"targets": ["frontal"], "num_inference_steps": 2, "model": model}
    young, old = (medcodi.generate(prompts={"record": {"age": age, "sex": "F"}}, **request) for age in (20, 80))
    assert not np.array_equal(young.images["frontal"], old.images["frontal"])
    out = medcodi.generate(prompts={"frontal": young.frontal}, targets=["record"], num_inference_steps=2, model=model)
    assert set(out.record) == set(model.config.record.fields)
