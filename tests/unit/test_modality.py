from __future__ import annotations

import dataclasses

import pytest

from medcodi.errors import PromptError
from medcodi.modality import MODALITIES, STANDARD, in_table_order, modality, names


def test_table_order_and_kinds() -> None:
    assert names() == ("frontal", "lateral", "report", "record")
    assert STANDARD == ("frontal", "lateral", "report") and names("table") == ("record",)
    assert names("image") == ("frontal", "lateral")
    assert names("text") == ("report",)


def test_rows_are_frozen_and_distinct() -> None:
    assert len({row.short for row in MODALITIES.values()}) == len(MODALITIES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        modality("report").kind = "image"  # type: ignore[misc]


def test_no_view_code_means_two_modalities() -> None:
    codes = [code for row in MODALITIES.values() for code in row.view_codes]
    assert len(codes) == len(set(codes))


def test_unknown_modality_is_refused_with_the_nearest() -> None:
    with pytest.raises(PromptError, match="unknown modality 'fronal'.*did you mean 'frontal'"):
        modality("fronal")


def test_in_table_order_checks_sorts_and_drops_doubles() -> None:
    assert in_table_order(["report", "frontal", "report"]) == ("frontal", "report")
    assert in_table_order([]) == ()
    with pytest.raises(PromptError, match="'ct'"):
        in_table_order(["report", "ct"])
