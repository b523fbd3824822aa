"""JSON of others: plain, bounded data, or a refusal that names the value."""

from __future__ import annotations

import json

import pytest

from medcodi.errors import CheckpointError, DataError
from medcodi.storage.checked_json import parse_json, shown


def test_valid_json_comes_back() -> None:
    value = {"a": [1, -2.5, True, None, {"ä": "Lungenentzündung 🫁"}], "n": 2**64}
    assert parse_json(json.dumps(value).encode(), "file") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "file") == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "file is not valid: Expecting property name"),
        (b"\xff", "can't decode byte 0xff"),
        (b'{"a": [0, NaN]}', "a.1 is nan: not a finite number"),
        (b'{"a": -Infinity}', "a is -inf"),
        (b'{"a": 1e400}', "a is inf"),
        (b'{"a": 36893488147419103232}', "a is 36893488147419103232: an integer beyond 64 bits"),
        (b'{"a": "\\ud83e"}', "a is '.ud83e': no Unicode text"),
        (b'{"\\udead": 1}', "the key '.udead'"),
        (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        (b'{"a":' * 64 + b"1" + b"}" * 64, ""),
        (b'{"a":' * 65 + b"{}" + b"}" * 65, "nested deeper than 64 levels"),
        (b"[" * 10**6, "nested deeper than 64 levels"),
    ],
    ids=lambda value: str(value[:24]),
)
def test_what_is_no_data_is_refused_by_name(data: bytes, message: str) -> None:
    if not message:
        parse_json(data, "file")
        return
    with pytest.raises(DataError, match=message):
        parse_json(data, "file")


def test_the_refusal_is_of_the_class_asked_for() -> None:
    with pytest.raises(CheckpointError, match=r"models/x/model_index\.json is not valid"):
        parse_json(b"", "models/x/model_index.json", CheckpointError)


def test_values_are_shown_short_and_printable() -> None:
    assert shown("a\x1b[31m") == "'a\\x1b[31m'"
    assert shown("x" * 100, 10) == "'xxxxxxxxx… (102 characters)"
