"""Records: what a field takes, in which spellings, and what is refused by name."""

import pytest

from medcodi.errors import ConfigError, DataError, PromptError
from medcodi.record import FieldConfig, RecordConfig, read_record, record_text

SCHEMA = RecordConfig(
    fields={
        "age": {"low": 0, "high": 120, "unit": "years"},
        "sex": {"values": ("F", "M")},
        "crp": {"low": 0.1, "high": 500, "unit": "mg/L", "scale": "log", "digits": 1},
    }
)


@pytest.mark.parametrize(
    ("written", "age"),
    [(71, 71.0), ("71", 71.0), ("071Y", 71.0), ("018M", 1.5), ("71 years", 71.0), ("71,5 y", 71.5), (0, 0.0)],
)
def test_numbers_in_all_their_spellings(written, age):
    assert SCHEMA.parse({"age": written})["age"] == pytest.approx(age, abs=0.01)


def test_other_spellings_of_units_and_categories():
    fields = {"heat": {"low": 30, "high": 43, "unit": "C"}, "cells": {"low": 0, "high": 200, "unit": "10^9/L"}}
    schema = RecordConfig(fields={**SCHEMA.fields, **fields})
    record = {"heat": "38.2 °C", "cells": "7 K/uL", "sex": "Female"}
    assert schema.parse(record) == {"sex": "F", "heat": 38.2, "cells": 7.0}
    with pytest.raises(DataError, match="heat is '100 F'"):
        schema.parse({"heat": "100 F"})


def test_categories_ignore_case_and_missing_values_are_left_out():
    assert SCHEMA.parse({"sex": " f ", "age": None, "crp": ""}) == {"sex": "F"}
    assert list(SCHEMA.parse({"sex": "M", "age": 3})) == ["age", "sex"]  # the schema's order


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"agee": 3}, "unknown field 'agee'.*did you mean 'age'"),
        ({"sex": "Ms"}, "sex is 'Ms'.*F, M"),
        ({"sex": 1}, "sex is 1"),
        ({"age": 171}, "age is 171, outside its plausible range.*0 to 120 years"),
        ({"age": float("nan")}, "age is nan"),
        ({"age": True}, "age is True"),
        ({"age": "old"}, "age is 'old'.*a number"),
        ({"crp": "3 mg/dL"}, "crp is '3 mg/dL'.*mg/L"),
        ({"crp": "<5"}, "crp is '<5'"),
        ({"crp": 0}, "crp is 0, outside"),
    ],
)
def test_invalid_values_are_refused_by_name(record, message):
    with pytest.raises(DataError, match=message):
        SCHEMA.parse(record)


def test_a_record_as_text():
    assert read_record("age=71, sex=F") == {"age": "71", "sex": "F"}
    assert read_record({"age": 71}) == {"age": 71}
    assert record_text({"age": 71.0, "sex": "F"}) == "age=71, sex=F"
    for text in ("", "age", "age=1,age=2", {}):
        with pytest.raises(PromptError):
            read_record(text, PromptError)
    with pytest.raises(DataError, match="a int as record"):
        read_record(5)


@pytest.mark.parametrize(
    "field",
    [
        {},
        {"low": 1},
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "scale": "log"},
        {"values": ("a",)},
        {"values": ("a", "A")},
        {"low": 0, "high": 1, "values": ("a", "b")},
    ],
)
def test_fields_that_make_no_sense_are_refused(field):
    with pytest.raises((ConfigError, ValueError)):
        FieldConfig(**field)


def test_a_schema_needs_fields_with_plain_names():
    for fields in ({}, {"Age": {"low": 0, "high": 1}}, {"a b": {"low": 0, "high": 1}}):
        with pytest.raises(ConfigError):
            RecordConfig(fields=fields)
