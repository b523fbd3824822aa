"""Identifiers in a report by presidio's pattern recognisers, beside the rules of our own.

There is no language model behind them (``spacy.blank("en")``), so names and places are not looked for. Needs the extra ``phi``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from medcodi.errors import MissingExtraError
from medcodi.trust.privacy.attacks.identifiers import is_clinical

# Entities that its recognisers find by form, in the order of the stored columns; a new one goes to the end.
ENTITIES = (
    "DATE_TIME", "PHONE_NUMBER", "EMAIL_ADDRESS", "URL", "IP_ADDRESS", "US_SSN", "US_ITIN", "US_PASSPORT", "US_DRIVER_LICENSE",
    "US_BANK_NUMBER", "MEDICAL_LICENSE", "CREDIT_CARD", "IBAN_CODE", "UK_NHS",
)  # fmt: skip
LEAST_SCORE = (
    0.4  # presidio's weak patterns, such as any eight digits, are below it unless a word beside them confirms them
)


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
