"""Guidance by a weaker model: it is off where it must be, it moves what nothing prompts, and models that do not fit are refused."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.errors import CheckpointError, PromptError
from medcodi.generation import generate, generate_batch
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.config import tiny_config
from medcodi.model.generation_config import GenerationConfig, WeakModelConfig

REPORT = "Large left effusion."
FILMS = ("frontal", "lateral")


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    return tiny_model(seed=0).eval()


@pytest.fixture(scope="module")
def folders(model: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The model itself, one with weaker denoisers, and one with another image autoencoder."""
    weaker, other = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in weaker.denoisers.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        next(other.autoencoders["image"].parameters()).mul_(1.5)
    root = tmp_path_factory.mktemp("models")
    models = {"same": model, "weaker": weaker, "other": other}
    return {name: str(each.save_pretrained(root / name)) for name, each in models.items()}


def films(model: MedCoDi, weak: WeakModelConfig | None, report: str | None = None, **settings: object) -> np.ndarray:
    out = generate({} if report is None else {"report": report}, FILMS, model=model, weak=weak, seed=3, **settings)
    return np.stack([out.images[name] for name in FILMS])


@pytest.mark.parametrize("order", ["joint", "chained"])
def test_the_model_itself_and_a_scale_of_one_change_nothing(model, folders, order) -> None:
    plain = films(model, None, order=order)
    for weak in (
        WeakModelConfig(model=folders["same"], scale=3.0),
        WeakModelConfig(model=folders["weaker"], scale=1.0),
    ):
        np.testing.assert_array_equal(films(model, weak, order=order), plain)
    moved = films(model, WeakModelConfig(model=folders["weaker"], scale=3.0), order=order)
    assert np.abs(moved - plain).max() > 1e-3


def test_it_guides_what_nothing_prompts_or_everything(model, folders) -> None:
    weak, everywhere = (WeakModelConfig(model=folders["weaker"], everywhere=value) for value in (False, True))
    plain = films(model, None, REPORT)
    np.testing.assert_array_equal(films(model, weak, REPORT), plain)
    assert np.abs(films(model, everywhere, REPORT) - plain).max() > 1e-3

    # In a batch, a row without a prompt is guided, and the other is not.
    prompts = [{"report": REPORT}, {}]
    both = generate_batch(model, prompts, ["frontal"], [3, 3], GenerationConfig(weak=weak))
    none = generate_batch(model, prompts, ["frontal"], [3, 3])
    np.testing.assert_array_equal(both[0]["frontal"], none[0]["frontal"])
    assert np.abs(np.asarray(both[1]["frontal"]) - np.asarray(none[1]["frontal"])).max() > 1e-3


def test_the_identity_of_the_weak_model_is_part_of_that_of_a_generation(model, folders) -> None:
    weak = WeakModelConfig(model=folders["weaker"])
    identity = MedCoDi.from_pretrained(folders["weaker"]).identity()
    assert generate({}, ["frontal"], model=model, weak=weak).provenance["settings"]["weak"]["sha256"] == identity
    assert "weak" not in generate({}, ["frontal"], model=model).provenance["settings"]
    resolved = GenerationConfig(weak=weak).resolved(model)
    assert resolved.resolved(model) == resolved
    with pytest.raises(PromptError, match=f"{identity[:16]}, not abc"):
        GenerationConfig(weak=WeakModelConfig(model=folders["weaker"], sha256="abc")).resolved(model)


def test_models_that_do_not_fit_are_refused(model, folders, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="differs from 'tiny' in autoencoder_image"):
        films(model, WeakModelConfig(model=folders["other"]))
    pooled = tiny_model(seed=0, context="pooled").save_pretrained(tmp_path / "pooled")
    with pytest.raises(PromptError, match="in context"):
        films(model, WeakModelConfig(model=str(pooled)))
    with pytest.raises(CheckpointError):
        films(model, WeakModelConfig(model=str(tmp_path / "none")))
    with pytest.raises(PromptError, match="weak.scale is -1"):
        WeakModelConfig(model="x", scale=-1.0)
    with pytest.raises(ValueError, match="weak is a choice of a request"):
        tiny_config(generation=GenerationConfig(weak=WeakModelConfig(model="x")))
