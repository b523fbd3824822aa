"""The record of a study: named values (age, sex, laboratory values), any of them missing, and the schema that checks them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from medcodi.config import Finite, config
from medcodi.errors import DataError, MedCoDiError, did_you_mean

RecordValue = float | str
Record = Mapping[str, RecordValue]  # field -> number or category; a missing field has no key

# A number with an optional unit: "38.2", "38,2 °C", "<5" is refused, as is "12 13".
_NUMBER = re.compile(r"\s*([-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?)\s*(\S*)\s*")
_DICOM_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5, value representation AS
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_YEARS = ("years", "year", "y", "yr", "yrs")
_ABSENT = {"", "nan", "none", "null", "na", "n/a", "unknown"}
# Other spellings of units and categories, in small letters.
_SAME = {"°c": "c", "k/ul": "10^9/l", "10^3/ul": "10^9/l", "bpm": "1/min", "/min": "1/min", "kg/m²": "kg/m2"}
_SAME_CATEGORY = {"female": "f", "male": "m"}


@config
class FieldConfig:
    """One field: numeric (``low`` and ``high``), or categorical (``values``)."""

    low: Finite | None = None  # plausible range, both ends included; values outside it are refused
    high: Finite | None = None  # upper end of the plausible range
    unit: str = ""  # of numbers, as texts may carry it
    scale: Literal["linear", "log"] = "linear"  # what is close to normally distributed: the value, or its logarithm
    digits: int = 0  # decimals that a generated value is rounded to
    values: tuple[str, ...] = ()  # categories

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None) or (self.low is None) == (not self.values):
            raise ValueError("a field needs either low and high (numeric) or values (categorical)")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.scale == "log" and (self.low is None or self.low <= 0):
            raise ValueError(f"scale: log needs low > 0, not {self.low}")
        if self.values and (len(self.values) < 2 or len({value.lower() for value in self.values}) < len(self.values)):
            raise ValueError(f"values {self.values}: expected at least two that differ by more than case")

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.low is not None

    def parse(self, name: str, value: Any, error: type[MedCoDiError] = DataError) -> RecordValue | None:
        """One value, checked; None where it is missing. Numbers may be texts with this field's unit, ages such as ``"045Y"``."""
        if value is None or (isinstance(value, str) and value.strip().lower() in _ABSENT):
            return None
        return self._number(name, value, error) if self.is_numeric else self._category(name, value, error)

    def _number(self, name: str, value: Any, error: type[MedCoDiError]) -> float:
        expected = f"a number from {self.low:g} to {self.high:g}{f' {self.unit}' if self.unit else ''}"
        number = self._from_text(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise error(f"record: {name} is {value!r}"[:200], expected=expected, fix=f"correct {name}, or leave it out")
        assert self.low is not None and self.high is not None
        if not self.low <= number <= self.high:
            raise error(
                f"record: {name} is {number:g}, outside its plausible range",
                expected=expected,
                fix=f"check its unit, correct {name}, or leave it out",
            )
        return float(number)

    def _from_text(self, text: str) -> float | None:
        if self.unit in _YEARS and (age := _DICOM_AGE.fullmatch(text.strip())):
            return int(age[1]) * _DAYS[age[2]] / _DAYS["Y"]
        match = _NUMBER.fullmatch(text)
        if match is None:
            return None
        known = {"", self.unit.lower(), *(_YEARS if self.unit in _YEARS else ())}
        unit = match[2].lower()
        return float(match[1].replace(",", ".")) if _SAME.get(unit, unit) in known else None

    def _category(self, name: str, value: Any, error: type[MedCoDiError]) -> str:
        by_lower = {known.lower(): known for known in self.values}
        text = str(value).strip().lower()
        text = text if text in by_lower else _SAME_CATEGORY.get(text, text)
        if not isinstance(value, str) or text not in by_lower:
            raise error(
                f"record: {name} is {value!r}"[:200],
                expected=", ".join(self.values),
                fix=did_you_mean(text, by_lower) if isinstance(value, str) else f"correct {name}, or leave it out",
            )
        return by_lower[text]


@config
class RecordConfig:
    """The schema of a record: the fields that a model knows, in the order of its tokens."""

    fields: dict[str, FieldConfig]  # name -> field

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("a record needs at least one field")
        odd = [name for name in self.fields if not re.fullmatch(r"[a-z][a-z0-9_]*", name)]
        if odd:
            raise ValueError(f"field names {odd}: expected small letters, digits and underscores, e.g. heart_rate")

    def parse(self, record: Mapping[str, Any], error: type[MedCoDiError] = DataError) -> dict[str, RecordValue]:
        """A record, checked: known fields in the schema's order, missing ones left out.

        Args:
            record: Field -> value (numbers, categories, or texts of them; None or ``""``: missing).
            error: Class of the refusal.

        Raises:
            MedCoDiError: Of that class, if a field or category is unknown, or a number is none, or implausible.
        """
        for name in record:
            if name not in self.fields:
                raise error(
                    f"unknown field {name!r} of a record"[:200],
                    expected=", ".join(self.fields),
                    fix=did_you_mean(str(name), self.fields),
                )
        parsed = {name: field.parse(name, record.get(name), error) for name, field in self.fields.items()}
        return {name: value for name, value in parsed.items() if value is not None}

    def numbers(self, record: Mapping[str, Any]) -> list[float]:
        """A record, checked by :meth:`parse`, as one number a field: of a category its index; NaN where missing.

        A field with ``scale: log`` gives the natural logarithm of its value.
        """
        known = self.parse(record)
        numbers = []
        for name, field in self.fields.items():
            value = known.get(name, math.nan)
            if isinstance(value, str):
                numbers.append(float(field.values.index(value)))
            else:
                numbers.append(math.log(value) if field.scale == "log" else value)
        return numbers


# The fields that our sources know: those of phantom version 2, and of clinical tables and DICOM tags.
CLINICAL_RECORD = RecordConfig(
    fields={  # pyright: ignore[reportArgumentType]
        "age": {"low": 0, "high": 120, "unit": "years"},
        "sex": {"values": ("F", "M")},
        "bmi": {"low": 10, "high": 80, "unit": "kg/m2", "digits": 1},
        "view": {"values": ("PA", "AP")},
        "bnp": {"low": 1, "high": 70_000, "unit": "pg/mL", "scale": "log"},
        "crp": {"low": 0.1, "high": 1_000, "unit": "mg/L", "scale": "log", "digits": 1},
        "leucocytes": {"low": 0.1, "high": 200, "unit": "10^9/L", "digits": 1},
        "temperature": {"low": 30, "high": 43, "unit": "C", "digits": 1},
        "oxygen_saturation": {"low": 40, "high": 100, "unit": "%"},
        "heart_rate": {"low": 20, "high": 250, "unit": "1/min"},
        "haemoglobin": {"low": 3, "high": 25, "unit": "g/dL", "digits": 1},
    }
)


def read_record(value: Any, error: type[MedCoDiError] = DataError) -> dict[str, Any]:
    """A record as a mapping, from a mapping or from ``"age=71, sex=F"``; its values are checked by a :class:`RecordConfig`.

    Raises:
        MedCoDiError: Of class ``error``, if it is none of these, or empty.
    """
    parsed: Any = value
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        parsed = {name.strip(): text.strip() for name, _, text in pairs}
        if len(parsed) < len(pairs) or not all(equals for _, equals, _ in pairs):
            raise error(f"record {value!r}"[:200], expected="each field once, as in age=71,sex=F")
    if not isinstance(parsed, Mapping):
        raise error(
            f"a {type(parsed).__name__} as record", expected="fields with values, such as {'age': 71, 'sex': 'F'}"
        )
    if not parsed:
        raise error("the record is empty", expected="at least one field with its value", fix="leave the record out")
    return dict(parsed)


def fields_in_columns(cells: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """Fields of a record in the columns ``record.age``, ``record.sex`` ... of a table's row; empty cells are left out."""
    fields = {column.partition(".")[2]: cell for column, cell in cells.items() if column.startswith(f"{modality}.")}
    return {name: cell for name, cell in fields.items() if cell not in (None, "")}


def record_text(record: Record) -> str:
    """A record in one line: ``age=71, sex=F``."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) else format(value, 'g')}" for name, value in record.items()
    )
