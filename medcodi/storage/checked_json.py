"""JSON from files that others wrote: parsed as plain, bounded data, or refused by the name of the value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medcodi.errors import DataError, MedCoDiError, first_line

MAX_DEPTH = 64  # of nested lists and objects
MAX_INTEGER = 2**64  # beyond it, an integer fits no field of ours, and no tensor
# What code raises that reads a value of another shape than it expects.
_OF_WRONG_SHAPE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, AssertionError)


def parse_json(data: bytes, source: str, error: type[MedCoDiError] = DataError) -> Any:
    """Parse UTF-8 JSON whose numbers are finite, whose texts are Unicode, and whose keys occur once.

    Args:
        data: The content of the file.
        source: Where it comes from, for the message: ``"models/x/model_index.json"``.
        error: Class of the refusal.

    Raises:
        DataError: Of class ``error``, naming the value and the reason.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object)
    except RecursionError:
        raise _refusal(source, f"it is nested deeper than {MAX_DEPTH} levels", error) from None
    except ValueError as cause:  # of the JSON, its encoding, or an integer of thousands of digits
        raise _refusal(source, first_line(cause), error) from None
    _check(value, source, error)
    return value


@contextmanager
def foreign(source: str, error: type[MedCoDiError] = DataError, *, expected: str, fix: str) -> Iterator[None]:
    """Around code that reads values which others wrote: whatever a value of another shape makes it raise becomes a refusal.

    Args:
        source: The file or folder, for the message.
        error: Class of the refusal.
        expected: What it should hold.
        fix: What the user does.

    Raises:
        MedCoDiError: Of class ``error``; refusals pass through.
    """
    try:
        yield
    except MedCoDiError:
        raise
    except _OF_WRONG_SHAPE as cause:
        what = f"{type(cause).__name__}: {first_line(cause)[:100]}"
        raise error(f"{source} holds invalid values ({what})", expected=expected, fix=fix) from cause


def shown(value: Any, limit: int = 60) -> str:
    """A value from a file, short enough for a message."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):  # two readers could take different ones
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shown(next(key for key in values if keys.count(key) > 1))} occurs twice")
    return values


def _check(value: Any, source: str, error: type[MedCoDiError]) -> None:
    """Check every value and key; iteratively, so that the depth is bounded by us."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        path, item = waiting.pop()
        if reason := _reason(item):
            name = ".".join(map(str, path)) if path else "the content"
            raise _refusal(source, f"{shown(name)[1:-1]} is {shown(item)}: {reason}", error)
        # Go down, with the path for the message.
        if isinstance(item, (dict, list)):
            if len(path) >= MAX_DEPTH:
                raise _refusal(source, f"it is nested deeper than {MAX_DEPTH} levels", error)
            pairs = item.items() if isinstance(item, dict) else enumerate(item)
            for key, inner in pairs:
                if isinstance(key, str) and _reason(key):
                    raise _refusal(source, f"the key {shown(key)} is no Unicode text", error)
                waiting.append(((*path, key), inner))


def _reason(value: Any) -> str:
    """The reason to refuse a single value; empty if there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return "an integer beyond 64 bits"
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
        return "no Unicode text (a lone surrogate)"
    return ""


def _refusal(source: str, reason: str, error: type[MedCoDiError]) -> MedCoDiError:
    return error(
        f"{source} is not valid: {reason}",
        expected="JSON of finite numbers and Unicode text",
        fix="fetch the file again; do not use it if its author is unknown",
    )
