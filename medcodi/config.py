"""Frozen dataclasses <-> YAML: values are checked at the door, by name, with the nearest right spelling."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from medcodi.errors import ConfigError, MedCoDiError, did_you_mean, first_line
from medcodi.recipes import beside, find_recipe

T = TypeVar("T")


def at_least(least: float) -> Any:
    """Bound of a number, for its type (``Annotated[int, ...]``); a lower value is refused by name."""
    return Field(ge=least)


def check_positive(owner: object, *names: str) -> None:
    """Refuse fields of a config that are 0 or below; those that are None are left out."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} is {value}, must be above 0")


Count = Annotated[int, at_least(1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass; its fields are validated and unknown keys refused.

    Building one with an invalid value raises the refusal that the class raised, else a :class:`ConfigError`.
    """
    rules = ConfigDict(extra="forbid", validate_default=False)
    built: Any = pydantic_dataclass(frozen=True, kw_only=True, config=rules)(cls)
    validate = built.__init__

    @functools.wraps(validate)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except ValidationError as error:
            raise _refusal(built, error, source=cls.__name__) from None

    built.__init__ = init
    return built


def _refusal(cls: Any, error: ValidationError, *, source: str) -> MedCoDiError:
    """The refusal for a failed validation: every problem, by the name of its key, with the fixes."""
    items = error.errors()
    causes = [item.get("ctx", {}).get("error") for item in items]
    if len(items) == 1 and isinstance(causes[0], MedCoDiError) and not items[0]["loc"]:
        return causes[0]
    problems, fixes = [], []
    for item, cause in zip(items, causes, strict=True):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = _known_keys(cls, item["loc"])
            problems.append(f"unknown key {key!r}")
            fixes.append(did_you_mean(str(item["loc"][-1]), known) if known else f"remove {key}")
        elif item["type"] in ("missing", "missing_keyword_only_argument"):
            problems.append(f"missing key {key!r}")
            fixes.append(f"add {key}")
        elif cause is not None:  # raised by the class itself, whose message names the value
            problems.append(f"{key}: {cause}" if key else str(cause))
            fixes.append(f"correct {key}" if key else "correct the values named")
        elif item["type"] == "greater_than_equal":
            problems.append(f"{key} is {item['input']!r}, must be at least {item.get('ctx', {}).get('ge')}")
            fixes.append(f"raise {key}")
        else:
            problems.append(f"{key} = {item['input']!r}: {item['msg']}")
            fixes.append(f"correct {key}")
    return ConfigError(f"{source}: " + "; ".join(problems), fix="; ".join(dict.fromkeys(fixes)))


def _known_keys(cls: Any, location: Sequence[str | int]) -> list[str]:
    """Field names of the dataclass that the last element of ``location`` should have been a field of."""
    current = cls
    for key in location[:-1]:
        fields = _field_types(current)
        if str(key) in fields:  # else an index, or a key of a mapping: the dataclass sought stays the same
            current = dataclass_in(fields[str(key)])
    return list(_field_types(current))


def _field_types(cls: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(cls):
        return {}
    try:
        hints = get_type_hints(cls)
    except NameError:  # a class made inside a function: its names are out of reach
        hints = {}
    return {field.name: hints.get(field.name) for field in dataclasses.fields(cls)}


def dataclass_in(annotation: Any) -> Any:
    """The first dataclass within ``Inner | None``, ``dict[str, Inner]``, ``tuple[Inner, ...]``; None without one."""
    if dataclasses.is_dataclass(annotation):
        return annotation
    inside = (dataclass_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((keys for keys in inside if keys is not None), None)


def from_dict(cls: type[T], values: dict[str, Any], *, source: str = "configuration") -> T:
    """Build a config from plain values.

    Args:
        cls: A class made by :func:`config`.
        values: Nested dictionaries, as YAML gives them.
        source: Where the values come from, for the message.

    Raises:
        ConfigError: Naming every key that is unknown, of a wrong type, or impossible.
    """
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise _refusal(cls, error, source=source) from None
    except ArithmeticError as error:  # of a check that divides by a value
        raise ConfigError(
            f"{source}: the values cannot be computed with ({error})", fix="correct the value that is 0 or too large"
        ) from None


def to_dict(value: Any) -> dict[str, Any]:
    """Plain values of a config, ready for YAML or JSON; ``from_dict`` reads them back to an equal config."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


MAX_YAML_VALUES = 100_000  # of one file


class _Loader(yaml.SafeLoader):
    """Plain values; a key that occurs twice is an error, where YAML would take the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if doubled := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"the key {doubled!r} occurs twice{node.start_mark}".replace("\n", " "))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: no key twice, and no more values by its aliases than a person would write.

    Raises:
        ValueError: If it is none.
    """
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, OverflowError, TypeError) as error:  # TypeError: a list as a key
        raise ValueError(first_line(error) if str(error) else "it is nested too deeply") from None
    # Aliases make values that hold themselves, or millions of values out of a few lines.
    waiting, num = [value], 0
    while waiting:
        item = waiting.pop()
        num += 1
        if num > MAX_YAML_VALUES:
            raise ValueError(f"it holds more than {MAX_YAML_VALUES:,} values")
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list | set) else ()
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a dictionary.

    Raises:
        ConfigError: If the file is missing, is not YAML, or does not hold keys.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"no configuration file at {path}",
            expected="a YAML file",
            fix="check the path, or see medcodi config list",
        )
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig")) or {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", expected="a YAML file") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {first_line(error)}", fix="correct the file") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}", expected="keys and values")
    return values


def read_recipe(cls: type, path: str | Path) -> dict[str, Any]:
    """The plain values of a recipe, a file or a shipped one by name; ``init`` and ``model`` are looked for beside it.

    Args:
        cls: The config that it fills; its ``recipes`` is the group of its shipped recipes.
        path: A YAML file, or a name.
    """
    file = find_recipe(path, getattr(cls, "recipes", ""))
    return beside(read_yaml(file), file)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``values`` with dotted overrides such as ``"optimizer.lr=1e-4"`` applied; values are read as YAML.

    Raises:
        ConfigError: If an override has no ``=``, holds no YAML, or goes below a plain value.
    """
    result = _deep_copy(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r} cannot be read", expected="key=value, such as optimizer.lr=1e-4")
        node = result
        *parents, last = key.lstrip("-").split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"override {override!r} goes below {parent!r}, which holds {node!r}",
                    expected="a group of keys there",
                )
        try:
            node[last] = parse_yaml(text)
        except ValueError:
            raise ConfigError(
                f"override {override!r}: {text!r} is not YAML", expected="a value such as 3, 1e-4, true, word or [1, 2]"
            ) from None
    return result


def _deep_copy(values: Any) -> Any:
    return {key: _deep_copy(value) for key, value in values.items()} if isinstance(values, dict) else values


def load(
    cls: type[T], path: str | Path, overrides: Sequence[str] = (), resolve: Callable[[dict], dict] | None = None
) -> T:
    """Read a recipe, apply dotted overrides, and build the config.

    Args:
        cls: A class made by :func:`config`.
        path: A YAML file, or the name of a shipped recipe (:func:`medcodi.recipes.find_recipe`).
        overrides: ``key=value`` strings.
        resolve: Called on the plain values before validation (e.g. to read a model file named in them).
    """
    values = apply_overrides(read_recipe(cls, path), overrides)
    return from_dict(cls, resolve(values) if resolve else values, source=str(path))


def to_yaml(value: Any) -> str:
    """The config as YAML text, keys in declaration order."""
    return yaml.safe_dump(to_dict(value), sort_keys=False, allow_unicode=True)
