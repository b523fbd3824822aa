from __future__ import annotations

from dataclasses import field
from importlib import import_module
from typing import Annotated, Any, Literal

import pytest
import yaml

from medcodi.app.commands.config import GROUPS, explained, recipe_class
from medcodi.app.config_keys import Key, annotated_yaml, keys_of, meanings
from medcodi.config import at_least, config, from_dict, load, to_dict
from medcodi.data.sources import SOURCES
from medcodi.recipes import recipe_names
from medcodi.stages.stage import STAGES, stage_class


@config
class Inner:
    """What an inner group is for."""

    size: int = 3  # its size


@config
class Outer:
    """Keys of every kind."""

    described: str  # without a default
    # above, over
    # two lines
    above: Annotated[int, at_least(2)] | None = None
    behind: Literal["a", "b"] = "a"  # behind it; None: nothing
    inner: Inner = Inner()
    several: tuple[Inner, ...] = (Inner(), Inner(size=4))
    names: dict[str, float] = field(default_factory=dict)  # by name
    text: str = "two\n\nlines"  # a text
    silent: bool = True


@config
class Inherited(Outer):
    """Further keys."""

    more: tuple[float, float] = (0.5, 1.0)  # two numbers


def test_keys_have_type_default_and_meaning() -> None:
    keys = {key.name: key for key in keys_of(Inherited)}
    assert keys["described"] == Key("described", "text", "", "without a default", None)
    assert keys["above"] == Key("above", "integer, at least 2 or null", "null", "above, over two lines", None)
    assert (keys["behind"].type, keys["behind"].default) == ("a or b", "a")
    assert keys["inner"] == Key("inner", "group of keys", "", "What an inner group is for", Inner)
    assert (keys["names"].type, keys["more"].type) == ("text -> number", "list of 2: number, number")
    assert "silent" not in meanings(Inherited) and meanings(Inherited)["more"] == "two numbers"


def test_yaml_explains_every_key_and_is_read_back() -> None:
    value = Inherited(described="x", above=5)
    text = annotated_yaml(Inherited, to_dict(value))
    assert from_dict(Inherited, yaml.safe_load(text)) == value
    assert "# above, over two lines (integer, at least 2 or null; default null)\nabove: 5\n" in text
    assert "# What an inner group is for\ninner:\n  # its size (integer; default 3)\n  size: 3\n" in text
    assert text.count("# its size") == 2  # of a list of groups, the first explains the keys
    assert "null: nothing" in text  # values as YAML has them


def user_facing() -> set[type]:
    """Every config class that a user fills: those of recipes, stages and sources, and the groups within them."""
    waiting: list[Any] = [recipe_class(f"{group}/x") for group in GROUPS] + [recipe_class("eval/classifier")]
    waiting += [stage_class(name).Config for name in STAGES]
    waiting += [getattr(import_module(f"medcodi.data.sources.{row.module}"), row.config) for row in SOURCES.values()]
    seen: set[type] = set()
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen.add(cls)
            waiting += [key.config for key in keys_of(cls) if key.config]
    return seen


def test_every_key_of_every_config_has_a_meaning() -> None:
    classes = user_facing()
    assert len(classes) > 35
    assert [f"{cls.__name__}.{key.name}" for cls in classes for key in keys_of(cls) if not key.meaning] == []


@pytest.mark.parametrize("name", recipe_names())
def test_an_explained_recipe_is_the_recipe(name: str) -> None:
    cls, text = recipe_class(name), explained(name)
    again, original = to_dict(from_dict(cls, yaml.safe_load(text))), to_dict(load(cls, name))
    # Options of a stage or a source are written out with their defaults.
    for values in (again, original):
        holder = values.get("stage", values)
        if "options" in holder:
            holder["options"] = {key: holder["options"][key] for key in _typed_options(name)}
    assert again == original
    assert all(len(line) <= 160 for line in text.splitlines() if line.lstrip().startswith("#"))


def _typed_options(name: str) -> list[str]:
    values = to_dict(load(recipe_class(name), name))
    return list(values.get("stage", values)["options"])
