"""One spelling of JSON, JavaScript's."""

from __future__ import annotations

import hashlib

import pytest

from medcodi.turing.bundle.canonical import canonical_json, javascript_number, sha256_of


@pytest.mark.parametrize(
    ("value", "text"),  # as ECMAScript's Number::toString gives them
    [
        (12.0, "12"), (12.34, "12.34"), (0.5, "0.5"), (-0.0, "0"), (1e-7, "1e-7"), (1.5e-7, "1.5e-7"), (0.000001, "0.000001"),
        (1e21, "1e+21"), (123456789012345680000.0, "123456789012345680000"), (1.5e300, "1.5e+300"), (-2.25, "-2.25"), (100.0, "100"),
        (5e-324, "5e-324"), (0.1 + 0.2, "0.30000000000000004"), (1e-5, "0.00001"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_javascript_writes_them(value: float, text: str) -> None:
    assert javascript_number(value) == text
    assert float(text) == value


def test_keys_are_sorted_and_nothing_is_escaped_that_javascript_would_not() -> None:
    value = {"b": [1, True, None, 2.0], "a": {"é": 'x"\n', "z": "\u2028"}, "\U0001f600": 1, "\uffff": 2}
    assert canonical_json(value) == '{"a":{"z":"\u2028","é":"x\\"\\n"},"b":[1,true,null,2],"\U0001f600":1,"\uffff":2}'


def test_the_hash_is_of_salt_and_text() -> None:
    assert sha256_of({"a": 1}, salt="s") == hashlib.sha256(b's{"a":1}').hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        canonical_json({"x": value})
