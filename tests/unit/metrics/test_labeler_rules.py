"""Rules of the labeler: sentences of a report, mentions that do not overlap, scopes of negation and uncertainty, places."""

from __future__ import annotations

import pytest

from medcodi.metrics.labeler_rules import concept_spans, expand, place_of, sentences, state_of, vocabulary


def only_mention(sentence: str) -> tuple[str, str | None, tuple[str | None, str | None, str | None]]:
    """Text, state, and place of the first mention of a sentence."""
    spans = concept_spans(sentence)
    (start, end), _ = spans[0]
    following = spans[1][0][0] if len(spans) > 1 else None
    return sentence[start:end], state_of(sentence, (start, end), following), place_of(sentence, spans, 0)


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
    ("sentence", "state"),
    [
        ("pleural effusion", "positive"),
        ("no pleural effusion", "negative"),
        ("possible pleural effusion", "uncertain"),
        ("pleural effusion cannot be excluded", "uncertain"),
        ("pleural effusion is not seen", "negative"),
    ],
)
def test_triggers_on_both_sides_of_a_mention(sentence: str, state: str) -> None:
    assert only_mention(sentence)[:2] == ("pleural effusion", state)


def test_a_stop_ends_the_scope_of_a_trigger() -> None:
    sentence = "no pneumothorax but pleural effusion"
    spans = concept_spans(sentence)
    states = [state_of(sentence, span, None) for span, _ in spans]
    assert states == ["negative", "positive"]


def test_side_location_and_size_are_the_nearest() -> None:
    assert only_mention("small left pleural effusion")[2] == ("left", None, "small")
    assert only_mention("pleural effusion on the right and the left")[2][0] == "bilateral"
    assert only_mention("large right upper lobe consolidation")[2] == ("right", "upper", "large")
    sentence = "left pleural effusion and right pneumothorax"
    spans = concept_spans(sentence)
    assert [place_of(sentence, spans, index)[0] for index in range(2)] == ["left", "right"]


def test_the_vocabulary_is_compiled_once_and_expands_abbreviations() -> None:
    assert vocabulary() is vocabulary()
    assert "bilateral" in expand("both sides show effusions")
