"""File names that come out of data stay inside their folder, on every common system."""

from __future__ import annotations

import pytest

from medcodi.errors import CheckpointError, DataError
from medcodi.storage.names import MAX_BYTES, collision_key, is_plain_name, plain_name, stays_inside


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
        "CON .txt",
        "nul  ",
        "CONOUT$",
        "com¹.tar.gz",
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


def test_names_that_are_one_file_on_some_systems_have_one_key() -> None:
    assert collision_key("Case.PNG") == collision_key("case.png")
    assert collision_key("Gr\u00f6\u00dfe") == collision_key("gro\u0308SSE")
    assert collision_key("a") != collision_key("b")


def test_names_of_earlier_versions_stay_inside() -> None:
    assert all(map(stays_inside, ("RoentGen v2?", "a.", "part-00001.npy")))
    assert not any(map(stays_inside, ("", ".", "..", ".x", "../x", "a/b", "a\\b", "C:x", "a\0")))
