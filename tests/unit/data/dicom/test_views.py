"""Views from words: codes, descriptions, other views, several at once."""

from __future__ import annotations

import pytest

from medcodi.data.dicom.views import View, view_of


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("PA", "frontal"),
        (" ap ", "frontal"),
        ("LL", "lateral"),
        ("lateral", "lateral"),
        ("Frontal", "frontal"),
        ("", None),
        ("OBLIQUE", None),
        ("report", None),
    ],
)
def test_a_code_names_the_modality_of_its_view(code: str, expected: str | None) -> None:
    assert view_of(code).modality == expected


@pytest.mark.parametrize("text", ["OBLIQUE", "LAO", "swimmers", "AP axial"])
def test_another_view_is_named_and_is_no_modality(text: str) -> None:
    assert view_of(text) == View(named=True)


def test_a_text_that_names_two_views_names_none() -> None:
    assert view_of("CHEST PA AND LATERAL") == View()
    assert view_of("CHEST PA AND LATERAL", position=True) == View(
        named=True
    )  # a position names a view, whatever it says


def test_a_single_letter_is_a_view_alone_and_a_side_inside_a_text() -> None:
    assert view_of("L").modality == "lateral"
    assert view_of("chest L AP").modality == "frontal"
