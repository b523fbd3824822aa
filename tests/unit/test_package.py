from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import medcodi
from medcodi import model
from medcodi.data.loading import DataConfig
from medcodi.errors import CheckpointError
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.inputs import classifier_folder
from medcodi.generation.pipeline import load

ROOT = Path(__file__).resolve().parents[2]


def test_the_public_face_loads_on_first_use() -> None:
    from medcodi.generation.pipeline import generate
    from medcodi.model import MedCoDi

    assert medcodi.generate is generate
    assert medcodi.MedCoDi is MedCoDi
    assert {"generate", "MedCoDi", "__version__"} <= set(dir(medcodi))
    with pytest.raises(AttributeError, match="'Medcodi'"):
        _ = medcodi.Medcodi  # type: ignore[attr-defined]


@pytest.mark.parametrize("room", ["evaluation", "generation", "model", "trust.privacy", "trust.utility", "turing"])
def test_every_public_name_of_a_room_loads_on_first_use(room: str) -> None:
    module = importlib.import_module(f"medcodi.{room}")
    assert [name for name in module.__all__ if not callable(getattr(module, name))] in ([], ["STAGES"])
    with pytest.raises(AttributeError, match="'no_such_name'"):
        _ = module.no_such_name


def test_the_demo_checkpoint_is_found_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, repository = tmp_path / "shipped", tmp_path / "checkpoints"
    monkeypatch.setattr(model, "_DEMO_FOLDERS", (wheel, repository))
    with pytest.raises(CheckpointError, match="make demo-train"):
        model.demo_checkpoint()
    repository.mkdir()
    (repository / "model_index.json").write_text("{}")
    assert model.demo_checkpoint() == repository


def test_demo_names_the_shipped_model_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = model.demo_checkpoint()
    loaded = medcodi.MedCoDi.from_pretrained("demo", lazy=True)
    assert loaded.config.name == "demo" and load("demo") is load(None) is load("checkpoints/demo")
    data = DataConfig(source="phantom", num_studies=8)
    assert classifier_folder(EvaluateConfig(data=data, model="demo")) == shipped
    assert classifier_folder(EvaluateConfig(data=data, classifier="demo")) == shipped
    # A folder `demo` without a model, such as the page that `medcodi demo` writes, changes nothing.
    (tmp_path / "demo").mkdir()
    assert model.named_model("demo") == shipped
    # A Path, or a path of more than the name, is a folder.
    assert model.named_model(Path("demo")) == Path("demo") and model.named_model("./demo") == "./demo"
    with pytest.raises(CheckpointError, match=r"demo holds no model_index.json"):
        medcodi.MedCoDi.from_pretrained("./demo")


def test_a_model_folder_called_demo_makes_the_name_ambiguous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: medcodi.MedCoDi
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model.save_pretrained(tmp_path / "demo")
    for ambiguous in (load, medcodi.MedCoDi.from_pretrained):
        with pytest.raises(CheckpointError, match=r"'demo' names the shipped model.*Fix: ./demo for the folder"):
            ambiguous("demo")
    assert load("./demo").config == load(Path("demo")).config == tiny_model.config
    # In the place of the shipped model in the repository, a folder is that folder.
    tiny_model.save_pretrained(tmp_path / "checkpoints/demo")
    assert load("checkpoints/demo").config == tiny_model.config


def test_constraints_hold_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"].startswith("2.12.") and pins["torchvision"].startswith("0.27.")


def test_version_is_the_same_everywhere() -> None:
    assert f"version: {medcodi.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
