"""What users of version 0.1.0 type and import still works: options, recipes with all their values, public names.

tests/golden/interface_0_1_0.json was written by that version: every command with its options, every recipe resolved
(without the texts that readers of a study see, which are words).
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from medcodi.app.cli import app
from medcodi.config import from_dict, load, to_dict
from medcodi.data.preparation.prepare import PrepareConfig
from medcodi.evaluation import ClassifierTrainConfig, EvaluateConfig
from medcodi.model import ModelConfig
from medcodi.training.config import TrainConfig
from medcodi.turing.design.config import ReaderStudyConfig, read_reader_study

ROOT = Path(__file__).resolve().parents[2]
OLD = json.loads((ROOT / "tests/golden/interface_0_1_0.json").read_text(encoding="utf-8"))
RENAMED = {"joint_guidance_scale": "environment_guidance_scale"}  # keys of recipes; the old ones are still read
RECIPES = [name for name in OLD["configs"] if name.endswith(".yaml")]
COMMANDS = [  # of 0.1.0's README, each stopped before it works by --help
    "medcodi generate --prompt report='Right upper lobe nodule.' --target frontal --out nodule/",
    "medcodi generate --prompt frontal=chest.png --prompt report=@report.txt --weight report=0.5 --guidance 3 --out lateral/",
    "medcodi generate --model models/xgem --prompt frontal=chest.dcm --target lateral --execution precision=bfloat16 --execution offload=cpu",
    "medcodi data prepare --source csv --out data/mine path=studies.csv",
    "medcodi data prepare --source dicom --out data/ward path=dicom/ image_size=256",
    "medcodi data cache --help",
    "medcodi train --config configs/train/autoencode.yaml",
    "medcodi train --estimate --config configs/train/medcodi-m/3-diffuse.yaml --gpus 32 init=null model=configs/models/medcodi-m.yaml",
    "medcodi evaluate --config configs/eval/demo.yaml",
    "medcodi evaluate --systems A=theirs/ B=others.csv --data data/mine --out results/",
    "medcodi evaluate --verify results/",
    "medcodi synthesize --manifest prompts.csv --out synthetic/",
    "medcodi parameters --config configs/models/medcodi-m.yaml",
    "medcodi import-xgem MedCoDi-M.pt models/xgem --tokenizers vocabularies/",
    "medcodi turing export --help",
    "medcodi doctor",
]
NAMES = {
    "medcodi": ["Generation", "MedCoDi", "Request", "SynthesisConfig", "__version__", "generate", "generate_many", "synthesize"],
    "medcodi.evaluation": [
        "ClassifierConfig", "ClassifierTrainConfig", "EvaluateConfig", "FindingClassifier", "evaluate", "train_classifier", "verify_bundle",
    ],
    "medcodi.metrics": [
        "FindingScores", "Interval", "Moments", "TextScorer", "auroc", "best_thresholds", "bootstrap_interval", "finding_scores",
        "frechet_distance", "label_matrix", "label_report", "labels_from_findings", "paired_difference", "resampling_weights",
    ],
    "medcodi.stages": ["STAGES", "Stage", "StepOutput", "build_stage", "stage_class"],
    "medcodi.data.sources.phantom": ["PhantomDataset", "phantom_findings", "phantom_report", "phantom_study"],
}  # fmt: skip


def config_class(recipe: str) -> type:
    """The class that a recipe fills, by its folder."""
    if recipe.startswith("configs/eval/classifier"):
        return ClassifierTrainConfig
    classes = {"train": TrainConfig, "models": ModelConfig, "eval": EvaluateConfig, "data": PrepareConfig}
    return classes.get(recipe.split("/")[1], ReaderStudyConfig)


def resolved(recipe: str) -> dict[str, Any]:
    """Every value of a recipe as it is today."""
    path = ROOT / recipe
    if config_class(recipe) is ReaderStudyConfig:
        return to_dict(read_reader_study(path))
    return to_dict(load(config_class(recipe), path))


def plain(value: object) -> object:
    """As JSON has it: lists instead of tuples."""
    return json.loads(json.dumps(value, default=str))


def with_new_names(value: Any) -> Any:
    """Values of 0.1.0 under the names that their keys have now."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): with_new_names(each) for key, each in value.items()}
    return value


def without_new_keys(value: Any, old: Any) -> Any:
    """``value`` reduced to the keys that ``old`` has."""
    if isinstance(value, dict) and isinstance(old, dict):
        return {key: without_new_keys(value[key], old[key]) for key in old if key in value}
    return value


# Recipes of the demo model that is trained anew: its denoisers hear features.
CHANGED = ("configs/models/demo.yaml", "configs/train/demo/7-join.yaml")


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe not in CHANGED])
def test_a_recipe_still_means_the_same(recipe: str) -> None:
    old = with_new_names(OLD["configs"][recipe])
    assert without_new_keys(plain(resolved(recipe)), old) == old


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_with_every_value_written_out_is_still_read(recipe: str) -> None:
    old = OLD["configs"][recipe]
    now = plain(to_dict(from_dict(config_class(recipe), old, source=recipe)))
    assert without_new_keys(now, with_new_names(old)) == with_new_names(old)


def test_every_renamed_key_is_in_the_migration_note() -> None:
    rows = re.findall(
        r"^\| key `(\w+)` \| key `(\w+)` \|$", (ROOT / "docs/MIGRATION.md").read_text(), flags=re.MULTILINE
    )
    assert dict(rows) == RENAMED


def options_of(command: Any, name: str = "") -> dict[str, set[str]]:
    """Command -> its options and the names of its arguments."""
    if hasattr(command, "commands"):
        return {
            key: value for sub, c in command.commands.items() for key, value in options_of(c, f"{name} {sub}").items()
        }
    return {
        name.strip(): {text for p in command.params for text in (p.opts if p.opts[0].startswith("-") else [p.name])}
    }


def test_every_command_still_has_every_option() -> None:
    now = options_of(typer.main.get_command(app))
    missing = {name: set(old) - now.get(name, set()) for name, old in OLD["options"].items()}
    assert {name: options for name, options in missing.items() if options} == {}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_still_parses(line: str) -> None:
    result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--help"])
    assert result.exit_code == 0 and "Usage: " in result.output


@pytest.mark.parametrize("room", NAMES)
def test_public_names_still_import(room: str) -> None:
    module = importlib.import_module(room)
    assert [name for name in NAMES[room] if not hasattr(module, name)] == []


def test_every_new_place_of_the_migration_note_exists() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", (ROOT / "docs/MIGRATION.md").read_text(), flags=re.MULTILINE)
    assert len(rows) >= 30
    for old, new in rows:
        with pytest.raises((ImportError, AttributeError)):
            resolve(f"medcodi.{old}")
        assert resolve(f"medcodi.{new}") is not None


def resolve(name: str) -> object:
    """A module, or a name in it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def test_recipes_hold_values_only() -> None:
    for recipe in RECIPES:
        assert isinstance(yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8")), dict), recipe
