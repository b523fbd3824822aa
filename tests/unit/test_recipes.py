from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.config import load, read_recipe
from medcodi.errors import ConfigError
from medcodi.evaluation.config import EvaluateConfig
from medcodi.model import ModelConfig
from medcodi.recipes import find_recipe, purpose, recipe_name, recipe_names, recipes_folder, recipes_in
from medcodi.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder: recipes are found from any."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("train/align", "", "train/align"),
        ("align", "train", "train/align"),
        ("align", "", "train/align"),
        ("configs/train/tiny/align.yaml", "train", "train/tiny/align"),
        ("tiny/align", "train", "train/tiny/align"),
        (Path("demo"), "turing", "turing/demo"),
        ("models/demo.yml", "models", "models/demo"),
    ],
)
def test_a_recipe_is_found_by_name_from_any_folder(name: str | Path, group: str, expected: str) -> None:
    file = find_recipe(name, group)
    assert file == ROOT / f"configs/{expected}.yaml" and recipe_name(file) == expected


@pytest.mark.parametrize(
    ("name", "group", "message"),
    [
        ("algin", "train", "did you mean 'align'"),
        ("train/algin", "", "did you mean 'train/align'"),
        ("configs/train/tiny/algin.yaml", "train", "did you mean 'train/tiny/align'"),
        ("demo", "", "data/demo, eval/demo, models/demo, turing/demo"),
        ("eval/demo", "train", "no configuration file at eval/demo"),
    ],
)
def test_another_name_is_refused_with_the_nearest(name: str, group: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_recipe(name, group)


def test_a_file_of_the_working_folder_comes_before_a_shipped_recipe(elsewhere: Path) -> None:
    (elsewhere / "configs/train").mkdir(parents=True)
    own = elsewhere / "configs/train/align.yaml"
    own.write_text("steps: 1\n")
    assert find_recipe("configs/train/align.yaml").resolve() == own and recipe_name(own) is None
    # A folder is no recipe.
    (elsewhere / "align").mkdir()
    assert find_recipe("align", "train") == ROOT / "configs/train/align.yaml"


def test_a_folder_of_recipes_is_found_by_name_or_path_and_no_recipe_is_taken_for_one(elsewhere: Path) -> None:
    stages = [path.stem for path in recipes_in("medcodi-m", "train")]
    assert stages == ["1-autoencode", "2-align", "3-diffuse", "4-join"]
    assert recipes_in("train/medcodi-m", "train") == recipes_in("medcodi-m", "train")
    (elsewhere / "align").mkdir()
    (elsewhere / "align" / "one.yaml").write_text("")
    assert recipes_in("align", "train") == recipes_in("nothing", "train") == []
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "b.yml").write_text("")
    assert recipes_in("mine", "train") == [Path("mine/b.yml")]


def test_every_recipe_loads_by_name_and_says_what_it_is_for() -> None:
    names = recipe_names()
    assert len(names) >= 31 and recipe_names("models") == [name for name in names if name.startswith("models/")]
    for name in names:
        assert 20 <= len(purpose(find_recipe(name))) <= 200, name
    for name in recipe_names("train"):
        run = load(TrainConfig, name)
        if run.model is not None:  # in the clone's spelling, and found from here
            assert load(ModelConfig, run.model).image_size == run.data.image_size


def test_a_recipe_finds_model_and_init_beside_itself(tmp_path: Path, elsewhere: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "start").mkdir(parents=True)
    (mine / "start/model_index.json").write_text("{}")
    (mine / "small.yaml").write_text((ROOT / "configs/models/tiny.yaml").read_text())
    recipe = mine / "run.yaml"
    recipe.write_text("model: small.yaml\ninit: start\nout: runs/mine\n")
    values = read_recipe(TrainConfig, recipe)
    assert values == {"model": str(mine / "small.yaml"), "init": str(mine / "start"), "out": "runs/mine"}
    assert load(ModelConfig, values["model"]).name == "tiny"


def test_what_is_not_beside_a_recipe_stays_as_it_is_written(tmp_path: Path) -> None:
    # A folder without a model, as configs/train/demo is beside configs/train/autoencode.yaml, is not what `demo` means.
    (tmp_path / "demo").mkdir()
    recipe = tmp_path / "run.yaml"
    recipe.write_text("model: demo\ninit: runs/align/model\n")
    assert read_recipe(TrainConfig, recipe) == {"model": "demo", "init": "runs/align/model"}
    assert load(ModelConfig, "demo") == load(ModelConfig, ROOT / "configs/models/demo.yaml")
    assert load(EvaluateConfig, "demo").model == "checkpoints/demo"


def test_an_installation_without_recipes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcodi.recipes._FOLDERS", (tmp_path / "shipped", tmp_path / "configs"))
    with pytest.raises(ConfigError, match="recipes are not in"):
        recipe_names()
    (tmp_path / "shipped").mkdir()
    assert recipes_folder() == tmp_path / "shipped"
