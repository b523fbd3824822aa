"""Keys of a config, from its class: type, default and meaning; and a config as YAML with these as comments."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import textwrap
import tokenize
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from medcodi.config import dataclass_in, from_dict, to_dict

WIDTH, SHOWN = 110, 80  # columns of a comment, and of a default in it
_PYTHON = {"None": "null", "True": "true", "False": "false"}  # values in meanings -> in YAML
_WORDS = {int: "integer", float: "number", bool: "true or false", str: "text", type(None): "null", Any: "any value"}
_NO_MEANING = re.compile(r"(fmt|type|pyright|noqa)\b")  # comments for tools

# (class, its values) -> class of its key `options`, whose kind the values name; None: it has no such key
OptionsOf = Callable[[type, Mapping[str, Any]], type | None]


@dataclass(frozen=True)
class Key:
    """One key of a config."""

    name: str
    type: str  # in words: "integer or null"
    default: str  # as YAML; "" where the key is required
    meaning: str
    config: type | None  # class of the keys below it


def keys_of(cls: type) -> list[Key]:
    """The keys of a config class, in the order of the class."""
    hints, texts = get_type_hints(cls, include_extras=True), meanings(cls)
    result = []
    for field in fields(cls):
        below = dataclass_in(hints[field.name])
        value = field.default if field.default is not MISSING else field.default_factory
        # A group's defaults are those of its own keys; its class says what it is for.
        default = "" if value is MISSING or below else _flow(value() if callable(value) else value)
        hint = hints[field.name]
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        by_name = get_origin(plain) is dict  # groups under names that the user chooses
        words = "groups by name" if below and by_name else "group of keys" if below else type_words(hint)
        meaning = texts.get(field.name, "") or (_first_line(below) if below else "")
        result.append(Key(field.name, words, default, meaning, below))
    return result


@cache
def meanings(cls: type) -> dict[str, str]:
    """Field -> its meaning, the comment above it or behind it; inherited ones too."""
    result: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if "__annotations__" in owner.__dict__:
            result |= _commented(owner)
    return result


def _commented(cls: type) -> dict[str, str]:
    """The comments of the fields in the class's source."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.lstrip("#: ").strip()
        if token.type == tokenize.COMMENT and not _NO_MEANING.match(text):
            comments[token.start[0]] = text
    alone = {number for number in comments if lines[number - 1].lstrip().startswith("#")}
    # Of each annotated name: the block of comments right above it, then those on its own lines.
    result = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            texts = [comments[number] for number in range(first, (node.end_lineno or first) + 1) if number in comments]
            if texts:
                result[node.target.id] = " ".join(texts).rstrip(".")
    return result


def type_words(annotation: Any) -> str:
    """A type in words: ``"integer, at least 1, or null"``, ``"list of text"``."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [bound.ge for rule in inside[1:] for bound in getattr(rule, "metadata", ()) if hasattr(bound, "ge")]
        return ", ".join([type_words(inside[0]), *(f"at least {bound:g}" for bound in bounds)])
    if origin is Literal:
        return " or ".join(str(value) for value in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(part) for part in inside)
    if origin is tuple and inside[-1] is not ...:
        return f"list of {len(inside)}: " + ", ".join(type_words(part) for part in inside)
    if origin in (tuple, list):
        return f"list of {type_words(inside[0])}"
    if origin is dict:
        return f"{type_words(inside[0])} -> {type_words(inside[1])}"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def annotated_yaml(cls: type, values: Mapping[str, Any], options_of: OptionsOf = lambda cls, values: None) -> str:
    """A config as YAML: above each key its meaning, type and default.

    Args:
        cls: Class of the config.
        values: Its plain values, complete, as :func:`medcodi.config.to_dict` gives them.
        options_of: Class of the key ``options`` of a group.
    """
    return "\n".join(_lines(cls, values, options_of, comments=True)) + "\n"


def _lines(cls: type, values: Mapping[str, Any], options_of: OptionsOf, *, comments: bool) -> list[str]:
    lines: list[str] = []
    for key in keys_of(cls):
        if key.name not in values:  # a key that the config does not write
            continue
        value = values[key.name]
        below = options_of(cls, values) if key.name == "options" else key.config
        if key.name == "options" and below:  # stored as typed: complete them
            value = to_dict(from_dict(below, dict(value)))
        if comments:
            lines += textwrap.wrap(_comment(key, below), WIDTH, initial_indent="# ", subsequent_indent="#   ")
        if below and value and key.type == "groups by name":  # a line each
            lines += [f"{key.name}:", *(f"  {name}: {_flow(item)}" for name, item in value.items())]
        elif below and value and isinstance(value, Mapping):
            lines += [f"{key.name}:", *_indented(_lines(below, value, options_of, comments=comments))]
        elif below and value and isinstance(value, list):
            # Of a list of groups, the first explains the keys.
            lines.append(f"{key.name}:")
            for number, item in enumerate(value):
                first = comments and number == 0
                lines += _indented(["-", *_indented(_lines(below, item, options_of, comments=first))])
        else:
            lines.append(f"{key.name}: {_flow(value)}")
    return lines


def _comment(key: Key, below: type | None) -> str:
    """``meaning (type; default)``; of a group its meaning, and of ``options`` what their class says."""
    meaning = _first_line(below) if below and not key.config else key.meaning
    for python, words in _PYTHON.items():
        meaning = re.sub(rf"\b{python}\b", words, meaning)
    meaning = meaning.replace("``", "")
    if below:
        return meaning
    default = f"default {textwrap.shorten(key.default, SHOWN, placeholder=' ...')}" if key.default else "required"
    return f"{meaning} ({key.type}; {default})"


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
