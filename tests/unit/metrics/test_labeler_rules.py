"""Vocabulary of the labeler: sentences of a report, mentions that do not overlap, sides, locations and sizes."""

from __future__ import annotations

import pytest

from medcodi.metrics.labeler_rules import concept_spans, expand, place_of, sentences, vocabulary


def place_of_first(sentence: str) -> tuple[str | None, str | None, str | None]:
    """Side, location and size of the first mention of a sentence."""
    return place_of(sentence, concept_spans(sentence), 0)


def test_only_findings_and_impression_are_read() -> None:
    report = "INDICATION: Rule out pneumonia. FINDINGS: Small effusion. Heart is normal. IMPRESSION: Stable."
    assert sentences(report) == ["small effusion", "heart is normal", "stable"]
    assert sentences("") == []
    assert sentences("Comparison: none. Small effusion.") == ["small effusion"]


def test_a_decimal_point_ends_no_sentence() -> None:
    assert sentences("A nodule of 1.5 cm. No effusion.") == ["a nodule of 1.5 cm", "no effusion"]


def test_of_overlapping_mentions_the_longer_stays() -> None:
    sentence = "small pleural effusion"
    assert [sentence[start:end] for (start, end), _ in concept_spans(sentence)] == ["pleural effusion"]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        # a line that begins a statement, and one that continues the line before
        ("no pneumothorax\nsmall effusion", ["no pneumothorax", "small effusion"]),
        ("no fracture\npacemaker in place", ["no fracture", "pacemaker in place"]),
        ("No evidence of\nCHF.", ["no evidence of chf"]),
        ("no pleural\neffusion", ["no pleural effusion"]),
        ("no edema,\neffusion or fracture", ["no edema, effusion or fracture"]),
        ("The effusion has\nresolved.", ["the effusion has resolved"]),
        # "no." is an answer, but "no. 3" a number
        ("Effusion: no. Edema: yes.", ["effusion: no", "edema: yes"]),
        ("Fracture of rib no. 3 is seen.", ["fracture of rib no. 3 is seen"]),
    ],
)
def test_line_breaks_and_full_stops(report: str, expected: list[str]) -> None:
    assert sentences(report) == expected


def test_side_location_and_size_are_the_nearest() -> None:
    assert place_of_first("small left pleural effusion") == ("left", None, "small")
    assert place_of_first("pleural effusion on the right and the left")[0] == "bilateral"
    assert place_of_first("large right upper lobe consolidation") == ("right", "upper", "large")
    sentence = "left pleural effusion and right pneumothorax"
    spans = concept_spans(sentence)
    assert [place_of(sentence, spans, index)[0] for index in range(2)] == ["left", "right"]


def test_the_vocabulary_is_compiled_once_and_expands_abbreviations() -> None:
    assert vocabulary() is vocabulary()
    assert "bilateral" in expand("both sides show effusions")
    assert expand("s/p surgery, w/o edema; it hasn't changed and can't be seen") == (
        "status post surgery, without edema; it has not changed and cannot be seen"
    )
