from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcodi.app.commands.evaluate import NUM_STUDIES, evaluation_values, named_systems
from medcodi.config import from_dict
from medcodi.errors import CheckpointError, ConfigError, DataError
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.inputs import classifier_folder
from medcodi.model import MedCoDi, demo_checkpoint


def test_without_a_file_held_out_phantoms_of_the_models_size(tiny_model: MedCoDi, tmp_path: Path) -> None:
    folder = str(tiny_model.save_pretrained(tmp_path / "model"))
    options = from_dict(EvaluateConfig, evaluation_values(None, model=folder, data=None, out_dir=tmp_path / "out"))
    assert (options.model, options.out) == (folder, str(tmp_path / "out"))
    assert (options.data.source, options.data.split, options.data.num_studies) == ("phantom", "test", NUM_STUDIES)
    assert options.data.image_size == tiny_model.config.image_size


def test_options_replace_what_the_file_says(tiny_model: MedCoDi, tmp_path: Path) -> None:
    folder = str(tiny_model.save_pretrained(tmp_path / "model"))
    recipe = tmp_path / "eval.yaml"
    recipe.write_text("model: elsewhere\nseed: 4\ndata: {source: phantom, num_studies: 9, image_size: 64}\n")
    assert evaluation_values(recipe, model=None, data=None, out_dir=None)["data"]["image_size"] == 64
    values = evaluation_values(recipe, model=folder, data="prepared", out_dir=None)
    section = {
        "path": "prepared",
        "split": "test",
        "num_studies": 9,
        "image_size": 64,
    }  # only path and source are replaced
    assert values == {"model": folder, "seed": 4, "data": section}


def test_without_a_recipe_the_prepared_folder_tells_its_size(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    told = {"format": "medcodi-studies/1", "name": "mine", "image_size": 48, "fingerprint": "f"}
    (tmp_path / "mine/dataset_info.json").write_text(json.dumps({**told, "counts": {"split": {"test": 9}}}))
    values = evaluation_values(None, model=None, data=str(tmp_path / "mine"), out_dir=None, systems={"A": "theirs"})
    assert values["data"] == {"split": "test", "path": str(tmp_path / "mine"), "image_size": 48}
    with pytest.raises(DataError, match="no dataset folder at nowhere"):
        evaluation_values(None, model=None, data="nowhere", out_dir=None)


def test_the_classifier_is_the_models_where_it_has_one(tmp_path: Path) -> None:
    data = {"source": "phantom", "num_studies": 9}
    model = from_dict(EvaluateConfig, {"data": data, "model": str(tmp_path)})
    assert classifier_folder(model) == demo_checkpoint()
    (tmp_path / "finding_classifier.safetensors").touch()
    assert classifier_folder(model) == tmp_path
    assert classifier_folder(from_dict(EvaluateConfig, {"data": data, "classifier": "named"})) == Path("named")


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no model at no/such/folder"):
        evaluation_values(None, model="no/such/folder", data=None, out_dir=None)


def test_systems_are_told_from_settings() -> None:
    settings = ["UniXGen=others.csv", "seed=3", "data.num_studies=9"]
    found, kept = named_systems(None, None, ["RoentGen=theirs/"], settings)
    assert found == {"RoentGen": "theirs/", "UniXGen": "others.csv"} and kept == ["seed=3", "data.num_studies=9"]
    assert named_systems(Path("theirs"), None, [], ["seeed=3"]) == ({"theirs": "theirs"}, ["seeed=3"])
    assert named_systems(Path("x.csv"), "RoentGen", [], [])[0] == {"RoentGen": "x.csv"}


@pytest.mark.parametrize(
    ("system", "systems", "message"),
    [("A", [], "names nothing"), (None, ["here"], "'here' names no system"), (None, ["A=x", "A=y"], "named 'A'")],
)
def test_systems_that_cannot_be_told(system: str | None, systems: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named_systems(None, system, systems, [])


@pytest.mark.parametrize("generated", [None, Path("theirs")])
def test_a_name_and_a_path_given_as_a_name_are_refused_with_the_right_option(generated: Path | None) -> None:
    with pytest.raises(ConfigError, match="--system a=b is no name.*Fix: --systems a=b"):
        named_systems(generated, "a=b", [], [])


def test_the_recipes_are_right(recipes: Path = Path(__file__).resolve().parents[4] / "configs/eval") -> None:
    for name in ("demo.yaml", "mimic-cxr.yaml"):
        values = evaluation_values(
            recipes / name, model=None, data=None, out_dir=None, systems={"A": "a"}, exclude=True
        )
        options = from_dict(EvaluateConfig, values, source=name)
        assert (
            len(options.model_directions()) in (12, 13) and options.systems == {"A": "a"} and options.exclude_unreadable
        )
    assert {"split", "sections", "resolution", "N"} <= set(options.notes)
