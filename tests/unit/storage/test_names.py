"""File names that come out of data stay inside their folder, on every common system."""

from __future__ import annotations

import pytest

from medcodi.errors import CheckpointError, DataError
from medcodi.storage.names import MAX_BYTES, is_plain_name, plain_name


@pytest.mark.parametrize(
    "name", ["a.png", "1.2.840.113.txt", "Größe.txt", "a" * MAX_BYTES, ".hidden", "con.txt.png.x"[3:]]
)
def test_plain_names(name: str) -> None:
    assert is_plain_name(name) and plain_name(name, "the table") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        "x.",
        " x",
        "x ",
        "CON",
        "nul.txt",
        "lpt1",
    ]
    + ["a" * (MAX_BYTES + 1), "\ud800", 'a"b', "a*b", "a?b", "a<b", "a|b"],
)
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    assert not is_plain_name(name)
    with pytest.raises(DataError, match="model_index.json names the file"):
        plain_name(name, "model_index.json")


def test_what_is_no_text_is_no_name_and_the_refusal_has_its_class() -> None:
    with pytest.raises(CheckpointError, match="names the file '3'"):
        plain_name(3, "the index", CheckpointError)
