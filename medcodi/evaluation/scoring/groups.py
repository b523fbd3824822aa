"""Groups of patients by the fields of their records: ``sex`` by its values, ``age:20`` in bands of 20 years, crossed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from medcodi.errors import ConfigError
from medcodi.evaluation.annotations import StudyTable
from medcodi.record import FieldConfig


def parse_bands(text: str) -> tuple[str, float | None]:
    """``sex`` -> its categories; ``age:20`` -> bands of 20 years.

    Raises:
        ConfigError: If the width of the bands is no positive number.
    """
    name, colon, width = text.partition(":")
    try:
        value = float(width) if colon else None
    except ValueError:
        value = math.nan
    if not name or (value is not None and not (math.isfinite(value) and value > 0)):
        raise ConfigError(
            f"subgroup_by {text!r}",
            expected="a field of records, of numbers with the width of bands",
            fix="sex, age:20",
        )
    return name, value


def groups_of(table: StudyTable, by: Sequence[str]) -> tuple[list[str], str]:
    """The group of every study (``sex F, age 40–60``: from 40 to below 60), "" if it is unknown; and why there are none, or "".

    Args:
        table: The studies; the first record that has any value of a field counts.
        by: Fields whose groups are crossed: see :func:`parse_bands`.
    """
    parts: list[list[str]] = []
    for name, width in map(parse_bands, by):
        # Numbers need bands, categories have none.
        field = table.fields.get(name)
        if field is None:
            return [], f"no record has {name}"
        if field.is_numeric != (width is not None):
            return [], f"{name} needs {'a' if field.is_numeric else 'no'} width of bands"
        # The values of every study, on the plain scale.
        column = list(table.fields).index(name)
        values = next(
            own for own in (record[:, column] for record in table.records.values()) if not np.isnan(own).all()
        )
        values = np.exp(values).round(6) if field.scale == "log" else values
        parts.append([_group(name, field, float(value), width) for value in values])
    # Cross the fields; a study that lacks one of them is in no group.
    return [", ".join(group) if all(group) else "" for group in zip(*parts, strict=True)], ""


def _group(name: str, field: FieldConfig, value: float, width: float | None) -> str:
    """The category or band of one value; "" if it is missing."""
    if np.isnan(value):
        return ""
    if width is None:
        return f"{name} {field.values[int(value)]}"
    low = math.floor(value / width) * width
    return f"{name} {low:g}–{low + width:g}"


def group_order(name: str) -> list[str | int]:
    """Key that sorts groups with their bands as numbers: 20–40 before 100–120."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
