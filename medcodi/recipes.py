"""Shipped recipes: YAML files found by name, in the installed package or in the repository, from any working directory."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from medcodi.errors import ConfigError, did_you_mean

PACKAGE = Path(__file__).resolve().parent
# The wheel carries configs/ as medcodi/shipped/configs (pyproject.toml, wheel.sources); an editable install and a clone have it
# beside the package.
_FOLDERS = (PACKAGE / "shipped" / "configs", PACKAGE.parent / "configs")
_CLONE, _SUFFIXES = "configs/", (".yaml", ".yml")
# Keys of a recipe that name a model folder or another recipe: looked for beside the recipe first.
_BESIDE = ("init", "model", "extend")


def recipes_folder() -> Path:
    """The folder of the shipped recipes.

    Raises:
        ConfigError: If the installation has none.
    """
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"the recipes are not in {_FOLDERS[0]}", expected="a complete installation", fix="install medcodi again"
    )


def recipe_names(group: str = "") -> list[str]:
    """Names of the shipped recipes: paths within ``configs/`` without suffix, such as ``train/align``; sorted.

    Args:
        group: Only those of this folder (``data``, ``eval``, ``models``, ``train``, ``turing``, ``utility``), ``""``: all.
    """
    root = recipes_folder()
    names = sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    return [name for name in names if name.startswith(f"{group}/" if group else "")]


def find_recipe(name: str | Path, group: str = "") -> Path:
    """The file of a recipe: an existing file, else a shipped recipe.

    Args:
        name: A path, or a name: ``train/align``, ``configs/train/align.yaml``, or ``align`` where the group is known.
        group: The group that the caller reads; ``""``: any, and then a short name must occur in one group only.

    Raises:
        ConfigError: If there is none, with the nearest name; or if several groups have the name.
    """
    if Path(name).is_file():
        return Path(name)
    short = _short_name(name)
    known = recipe_names()
    # The whole name; else the name within its group, or within any.
    if short in known and short.startswith(f"{group}/" if group else ""):
        return recipes_folder() / f"{short}.yaml"
    matches = [full for full in recipe_names(group) if full.partition("/")[2] == short]
    if len(matches) > 1:
        raise ConfigError(
            f"{len(matches)} recipes are named {short!r}", expected="one", fix=f"name one of {', '.join(matches)}"
        )
    if matches:
        return recipes_folder() / f"{matches[0]}.yaml"
    raise _no_recipe(name, short, group)


def recipes_in(name: str | Path, group: str) -> list[Path]:
    """Files of a folder of recipes, in the order of their names: a path, or shipped (``medcodi-m``); empty if a recipe has that name."""
    short = _short_name(name)
    if Path(name).is_file() or short in recipe_names() or f"{group}/{short}" in recipe_names():
        return []
    folders = (Path(name), recipes_folder() / group / short, recipes_folder() / short)
    found = [sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES) for folder in folders]
    return next(filter(None, found), [])


def recipe_name(file: Path) -> str | None:
    """The name of a shipped recipe's file; None for any other file."""
    root, file = recipes_folder().resolve(), file.resolve()
    return file.relative_to(root).with_suffix("").as_posix() if file.is_relative_to(root) else None


def _short_name(name: str | Path) -> str:
    """A name without ``configs/`` in front and ``.yaml`` behind."""
    text = Path(name).as_posix().removeprefix(_CLONE)
    return text.removesuffix(next((suffix for suffix in _SUFFIXES if text.endswith(suffix)), ""))


def _no_recipe(name: str | Path, short: str, group: str) -> ConfigError:
    first = short.partition("/")[0]
    known = recipe_names(group or first) or recipe_names()
    if not short.startswith(f"{group}/"):
        known = [full.partition("/")[2] for full in known] if group else known
    return ConfigError(
        f"no configuration file at {name}",
        expected="a YAML file, or the name of a shipped recipe",
        fix=f"check the path, or see medcodi config list; {did_you_mean(short, known)}",
    )


def beside(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """The values of a recipe, with ``init`` and ``model`` as absolute paths where the recipe's own folder holds what they name.

    Anything else stays as it is: a path from the working directory, a hub repository, or a name.
    """
    found = {}
    for key in _BESIDE:
        value = values.get(key)
        if isinstance(value, str) and not Path(value).is_absolute():
            path = file.parent / value
            # A folder without a model is no model: configs/train/demo is not what `init: demo` means.
            if path.is_file() or (path / "model_index.json").is_file():
                found[key] = str(path.resolve())
    return {**values, **found}


def purpose(file: Path) -> str:
    """Purpose of a recipe: the first sentence of its head comment; ``""`` without one."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    return re.split(r"(?<=[.?]) ", comment, maxsplit=1)[0].removesuffix(".")
