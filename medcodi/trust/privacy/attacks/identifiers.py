"""Identifiers and marks of de-identification in a report, by rules of our own and by presidio's pattern recognisers (extra ``phi``).

Both see forms, not meanings: there is no language model behind presidio's (``spacy.blank("en")``). A name without a title is not found,
and that a report is clean is not shown. Numbers that belong to the findings are white-listed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from medcodi.errors import MissingExtraError

_MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
# Category -> what it looks like. A further category is one more row.
RULES: dict[str, re.Pattern[str]] = {
    "mark of de-identification": re.compile(r"_{2,}|\[\*\*.*?\*\*\]|\bX{3,}\b|\[redacted\]", re.DOTALL),
    "date": re.compile(
        rf"\b\d{{1,2}}[/.-]\d{{1,2}}[/.-](?:\d{{4}}|\d{{2}})\b|\b(?:19|20)\d\d-\d\d-\d\d\b"
        rf"|\b{_MONTH}\.?\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+(?:19|20)\d\d\b|\b\d{{1,2}}\.?\s+{_MONTH}\s+(?:19|20)\d\d\b",
        re.IGNORECASE,
    ),
    "time": re.compile(r"\b(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?\s*(?:am|pm|hrs|hours)?\b", re.IGNORECASE),
    "telephone number": re.compile(r"(?<!\d)(?:\+\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"),
    "e-mail address": re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.]+\b"),
    "web address": re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE),
    "social security number": re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
    "record number": re.compile(
        r"\b(?:mrn|medical record|accession|patient id)\b\W{0,3}(?:(?:number|no|code|is)\W{0,3})*\w*\d{3,}\w*|\b\d{6,}\b",
        re.IGNORECASE,
    ),
    "name with a title": re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|Doctor|Nurse)\b\.?\s+[A-Z][A-Za-z'-]+"),
    "age above 89": re.compile(r"\b(?:9\d|1[01]\d)[- ]?(?:years?|yrs?|y)[- ]?(?:old|o\b)", re.IGNORECASE),
}
# Numbers of the findings: sizes, levels of the spine, ribs, shares, doses, exposures.
CLINICAL = re.compile(
    r"\d+(?:[.,]\d+)?(?:\s*[x×-]\s*\d+(?:[.,]\d+)?)*\s*(?:mm|cm|ml|cc|%|percent|degrees?|°|fr\b|french|mg|mgy|kv|kvp|mas)"
    r"|\b[CTL]\d{1,2}(?:\s*[-/]\s*[CTL]?\d{1,2})?\b|\b\d{1,2}(?:st|nd|rd|th)\s+(?:anterior |posterior |lateral )?ribs?\b",
    re.IGNORECASE,
)


def is_clinical(text: str, start: int, stop: int) -> bool:
    """Whether a passage is part of a number that belongs to the findings."""
    return any(match.start() <= start and stop <= match.end() for match in CLINICAL.finditer(text))


def identifiers_in(text: str) -> dict[str, list[str]]:
    """Category -> the passages found, in order; empty for a clean text."""
    found: dict[str, list[str]] = {}
    taken: list[tuple[int, int]] = []  # one passage counts in one category
    for category, rule in RULES.items():
        for match in rule.finditer(text):
            start, stop = match.span()
            if is_clinical(text, start, stop) or any(start < high and low < stop for low, high in taken):
                continue
            taken.append((start, stop))
            found.setdefault(category, []).append(match.group())
    return found


# ---- presidio --------------------------------------------------------------------------------------------------------
# Entities that its recognisers find by form, in the order of the stored columns; a new one goes to the end.
ENTITIES = (
    "DATE_TIME", "PHONE_NUMBER", "EMAIL_ADDRESS", "URL", "IP_ADDRESS", "US_SSN", "US_ITIN", "US_PASSPORT", "US_DRIVER_LICENSE",
    "US_BANK_NUMBER", "MEDICAL_LICENSE", "CREDIT_CARD", "IBAN_CODE", "UK_NHS",
)  # fmt: skip
# Presidio's weak patterns, such as any eight digits, are below it unless a word beside them confirms them.
LEAST_SCORE = 0.4


@lru_cache(maxsize=1)
def presidio_analyzer() -> Any:
    """The engine with presidio's recognisers of forms, on a pipeline that only splits words.

    Raises:
        MissingExtraError: If presidio or spacy is not installed.
    """
    try:
        import spacy  # pyright: ignore[reportMissingImports]
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry  # pyright: ignore[reportMissingImports]
        from presidio_analyzer.nlp_engine import SpacyNlpEngine  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("presidio-analyzer", extra="phi", needed_for="presidio: true") from None
    engine = SpacyNlpEngine()
    engine.nlp = {"en": spacy.blank("en")}
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    registry.remove_recognizer("SpacyRecognizer")  # it needs a trained pipeline
    return AnalyzerEngine(
        registry=registry, nlp_engine=engine, supported_languages=["en"], default_score_threshold=LEAST_SCORE
    )


def entities_in(text: str) -> dict[str, list[str]]:
    """Entity -> the passages found, in order; numbers that belong to the findings are white-listed."""
    found: dict[str, list[str]] = {}
    results = presidio_analyzer().analyze(text=text, language="en", entities=list(ENTITIES))
    for result in sorted(results, key=lambda own: (own.start, own.end)):
        if not is_clinical(text, result.start, result.end):
            found.setdefault(result.entity_type, []).append(text[result.start : result.end])
    return found
