from __future__ import annotations

import pytest

from medcodi.data.refusals import Refused
from medcodi.data.reports import MAX_REPORT_WORDS, compose_report, normalise_report, sections


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("  The lungs\n are   clear. ", "The lungs are clear."),
        ("Compared with ___, no change.", "Compared with, no change."),
        ("Heart size is normal. XXXX XXXX. No effusion.", "Heart size is normal. No effusion."),
        ("Seen by Dr. [**Last Name (un) 12**] today.", "Seen by Dr. today."),
        ("Chest x-XXXX dated ____.", "Chest x-ray dated."),
        ("XXXX-year-old woman.", "year-old woman."),
        ("Catheter (___) in place.", "Catheter in place."),
        ("Clear lungs\x00.", "Clear lungs."),
    ],
)
def test_marks_and_whitespace(raw: str, normal: str) -> None:
    assert normalise_report(raw) == normal


def test_sections_stand_on_lines_of_their_own() -> None:
    raw = "findings: The lungs are\nclear.   IMPRESSION:Normal chest.\nComparison:  ___"
    assert normalise_report(raw) == "FINDINGS: The lungs are clear.\nIMPRESSION: Normal chest."


def test_what_is_said_before_the_first_heading_is_kept() -> None:
    assert normalise_report("Two views. IMPRESSION: Normal.") == "Two views.\nIMPRESSION: Normal."


def test_words_that_only_look_like_headings_stay() -> None:
    text = "There are no findings: the lungs are clear."
    assert normalise_report(text) == text


def test_unicode_is_composed() -> None:
    assert normalise_report("naı\u0308ve cafe\u0301") == normalise_report("naı\u0308ve caf\u00e9")


@pytest.mark.parametrize(
    "raw",
    [
        "FINDINGS: Heart ___ is XXXX. IMPRESSION: ___ .",
        "X-XXXX-X ((___)) ..., ;",
        "[** [** a **] **] b",
        "IMPRESSION: FINDINGS: x IMPRESSION: y",
        "a__\n___b . . , ,",
    ],
)
def test_twice_is_once(raw: str) -> None:
    once = normalise_report(raw)
    assert normalise_report(once) == once


@pytest.mark.parametrize("raw", ["", "  \n\t ", "___", "XXXX. ____, [**Name**]", "...", "FINDINGS: \nIMPRESSION: ___"])
def test_empty_reports_are_refused(raw: str) -> None:
    with pytest.raises(Refused, match="empty") as refusal:
        normalise_report(raw)
    assert refusal.value.reason == "report: empty"
    assert refusal.value.fix


def test_long_reports_are_refused_with_their_length() -> None:
    with pytest.raises(Refused, match="5,000 words") as refusal:
        normalise_report("word " * 5000)
    assert refusal.value.reason == "report: too long"
    assert len(str(refusal.value)) < 300
    assert len(normalise_report("word " * MAX_REPORT_WORDS).split()) == MAX_REPORT_WORDS


@pytest.mark.parametrize("value", [None, 3, float("nan"), b"clear"])
def test_what_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(Refused) as refusal:
        normalise_report(value)  # type: ignore[arg-type]
    assert refusal.value.reason == "report: not text"


def test_sections_by_name() -> None:
    text = "Chest.\nHISTORY: Cough.\nFINDINGS: Clear.\nCONCLUSION: Normal.\nImpression: No change."
    assert sections(text) == {
        "": "Chest.",
        "indication": "Cough.",
        "findings": "Clear.",
        "impression": "Normal. No change.",
    }
    assert sections("Just words.") == {"": "Just words."}


def test_compose_report() -> None:
    whole = compose_report("  Clear. ", "Normal.")
    assert whole == "FINDINGS: Clear.\nIMPRESSION: Normal."
    assert normalise_report(whole) == whole
    assert sections(whole) == {"findings": "Clear.", "impression": "Normal."}
    assert compose_report(impression="Normal.") == "IMPRESSION: Normal."
    assert compose_report("Clear.") == "FINDINGS: Clear."
    assert compose_report(" ", "") == ""
