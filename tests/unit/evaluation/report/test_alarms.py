"""Annotators that were trained on phantoms are named where the data are not marked as phantoms."""

from __future__ import annotations

from typing import Any

import pytest

from medcodi.evaluation.report.alarms import alarms, random_extractors, unfit_annotators


def results(phantoms: bool | None, trained_on: str = "phantom-demo/train", model: str | None = None) -> dict[str, Any]:
    known = {} if phantoms is None else {"phantoms": phantoms}
    return {
        "config": {"model": model},
        "data": {"num_studies": 500, **known},
        "readers": {
            "images": {"name": "demo", "data": {"train": {"name": trained_on}}},
            "extractors": {"demo": {"settings": {"trained_on": trained_on}}, "xrv": {"settings": {}}},
            "encoder": {"model": "demo"},
        },
        "systems": {},
        "excluded": [],
    }


def test_every_annotator_trained_on_phantoms_is_named_with_its_fix() -> None:
    sentences = unfit_annotators(results(False))
    assert [
        any(fix in sentence for sentence in sentences) for fix in ("image_reader=xrv", "extractors=[xrv]", "model=...")
    ] == [True] * 3
    # Films of phantoms in a table, such as `data sample` writes, are not marked as such: nothing says that they are real.
    assert not any("are real" in sentence for sentence in sentences)
    assert alarms(results(False))[:3] == sentences  # first of what must not be overlooked, on page and terminal


@pytest.mark.parametrize("fits", [results(True), results(None), results(False, "mimic-cxr-256/train", "mine")])
def test_annotators_that_suit_the_data_raise_no_alarm(fits: dict[str, Any]) -> None:
    assert unfit_annotators(fits) == []
    bare = {**fits, "readers": {"images": None, "extractors": {}, "encoder": None}}
    assert unfit_annotators(bare) == []


def test_prompts_that_were_not_read_to_their_ends_are_an_alarm() -> None:
    cut = {"report": {"studies": 60, "truncated": 7}}
    system = {"coverage": {}, "directions": {}, "truncated_prompts": cut}
    (line,) = alarms({**results(True), "systems": {"ours": system}})
    assert line == "ours: 7 of 60 prompts of report are longer than the model reads; their ends had no influence."


def test_random_weights_come_first() -> None:
    dry = results(True)
    assert random_extractors(dry) == []
    dry["readers"]["extractors"]["rad-dino-299"] = {"settings": {"random": True}}
    assert alarms(dry)[0] == (
        "The weights of 'rad-dino-299' are random: this is a dry run, and no distance in these features means anything."
    )
