"""``medcodi config``: the shipped recipes: list them, show one with every key explained, copy one to change it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from medcodi.app.terminal import config_app, out
from medcodi.errors import ConfigError, one_of
from medcodi.recipes import find_recipe, purpose, recipe_name, recipe_names

# Group of recipes, or one recipe -> (what reads it, the class that it fills).
GROUPS = {
    "data": ("the keys of medcodi data prepare", "medcodi.data.preparation.prepare:PrepareConfig"),
    "models": ("medcodi parameters, and model=NAME of a training run", "medcodi.model.config:ModelConfig"),
    "train": ("medcodi train --config NAME", "medcodi.training.config:TrainConfig"),
    "eval": ("medcodi evaluate --config NAME", "medcodi.evaluation.config:EvaluateConfig"),
    "utility": ("medcodi utility --config NAME", "medcodi.trust.utility.config:UtilityConfig"),
    "audit": ("medcodi audit --config NAME", "medcodi.trust.privacy.config:AuditConfig"),
    "turing": ("medcodi turing export --study NAME", "medcodi.turing.design.config:ReaderStudyConfig"),
}
_CLASSIFIER = "medcodi.evaluation.annotators.classifier_training:ClassifierTrainConfig"
_OTHER_CLASS = {"eval/classifier": _CLASSIFIER, "eval/classifier-record": _CLASSIFIER}

Name = Annotated[str, typer.Argument(help="A recipe: train/align; align, if no other group has that name.")]


@config_app.command("list")
def list_recipes(
    group: Annotated[
        str | None, typer.Argument(help="data, models, train, eval, utility, audit or turing.", show_default="all")
    ] = None,
) -> None:
    """List the shipped recipes, each with its purpose. Commands take them by name, from any folder.

    [bold]Examples[/bold]

        medcodi config list

        medcodi config list train
    """
    shown = [one_of("group of recipes", group, GROUPS, ConfigError)] if group else list(GROUPS)
    for number, name in enumerate(shown):
        table = Table(box=None, pad_edge=False, show_header=False, title_justify="left", title_style="bold")
        table.title = f"{name}: {GROUPS[name][0]}"
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold", no_wrap=False)
        for recipe in recipe_names(name):
            table.add_row(recipe, purpose(find_recipe(recipe)))
        out.print(*([""] if number else []), table, sep="\n", soft_wrap=False)


@config_app.command()
def show(name: Name) -> None:
    """Print a recipe as YAML with every key: its value, and as a comment its meaning, type and default.

    [bold]Examples[/bold]

        medcodi config show train/align

        medcodi config show models/medcodi-m
    """
    file = find_recipe(name)
    full = recipe_name(file)
    if full is None:
        raise ConfigError(
            f"{file} is no shipped recipe",
            expected="a name of medcodi config list",
            fix=f"for a run of your own: medcodi train --config {file} --print-config",
        )
    print(explained(full), end="")


@config_app.command()
def copy(
    name: Name,
    dest: Annotated[
        Path | None, typer.Argument(help="A new file, or a folder.", show_default="the working directory")
    ] = None,
) -> None:
    """Copy a recipe, to change it. It names its model as the original does, so it works from any folder.

    [bold]Examples[/bold]

        medcodi config copy train/diffuse

        medcodi config copy eval/demo my-evaluation.yaml
    """
    from medcodi.storage.atomic import sweep_abandoned, write_text

    file = find_recipe(name)
    target = dest or Path()
    if target.is_dir():
        target = target / file.name
    if target.exists():
        sweep_abandoned(target.parent, target.name)  # of a copy that was killed after its last byte
        raise ConfigError(f"{target} exists", expected="a new file", fix=f"medcodi config copy {name} ANOTHER.yaml")
    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"{target} is neither a folder nor a .yaml file", expected="one of them", fix=f"{target}.yaml"
        )
    write_text(target, file.read_text(encoding="utf-8"), error=ConfigError)
    out.print(str(target), markup=False)


def explained(name: str) -> str:
    """A shipped recipe as YAML with every key, explained; the values are those of the recipe.

    Args:
        name: Its full name, ``train/align``.
    """
    from medcodi.app.config_keys import annotated_yaml
    from medcodi.config import load, to_dict

    file, cls = find_recipe(name), recipe_class(name)
    keys = annotated_yaml(cls, to_dict(load(cls, file)), options_class)
    # The recipe's own head comment, then its keys.
    lines = file.read_text(encoding="utf-8").splitlines()
    head = [*takewhile(lambda line: line.startswith("#"), lines)]
    return "\n".join([*head, f"# Recipe {name}, with every key.", "", keys])


def recipe_class(name: str) -> type:
    """The config class that a recipe fills."""
    module, _, attribute = (_OTHER_CLASS.get(name) or GROUPS[name.partition("/")[0]][1]).partition(":")
    return getattr(import_module(module), attribute)


def options_class(cls: type, values: Mapping[str, Any]) -> type | None:
    """Class of the key ``options``: of a stage, or of a source of studies."""
    if cls.__name__ == "StageConfig":
        from medcodi.stages.stage import stage_class

        return stage_class(values["name"]).Config
    if cls.__name__ == "PrepareConfig":
        from medcodi.data.sources import SOURCES

        source = SOURCES[values["source"]]
        return getattr(import_module(f"medcodi.data.sources.{source.module}"), source.config)
    return None
