from __future__ import annotations

import pytest

from medcodi.data.sources.phantom import phantom_report
from medcodi.trust.privacy.attacks.identifiers import identifiers_in


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Comparison with ___ .", "mark of de-identification"),
        ("Discussed with [**Name 12**] today.", "mark of de-identification"),
        ("Seen by XXXX.", "mark of de-identification"),
        ("Compared with 03/14/2019.", "date"),
        ("Film of March 14, 2019.", "date"),
        ("Findings were phoned at 3:45 pm.", "time"),
        ("Call (617) 555-0123.", "telephone number"),
        ("Write to a.b@clinic.org.", "e-mail address"),
        ("SSN 123-45-6789.", "social security number"),
        ("MRN: 4711889.", "record number"),
        ("Accession number 8841.", "record number"),
        ("Discussed with Dr. Miller.", "name with a title"),
        ("A 93-year-old woman.", "age above 89"),
    ],
)
def test_identifiers_are_found_once(text: str, category: str) -> None:
    found = identifiers_in(text)
    assert list(found) == [category] and len(found[category]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "A nodule of 12 x 14 mm, previously 10 mm.",
        "Fracture of T11-T12, and of the 7th rib; the tube ends 4.5 cm above the carina.",
        "An 85-year-old man. The cardiothoracic ratio is 55%.",
        "The lungs are clear. Doctor's note is absent.",
    ],
)
def test_clinical_numbers_are_none(text: str) -> None:
    assert identifiers_in(text) == {}


def test_phantom_reports_are_clean() -> None:
    assert not any(identifiers_in(phantom_report(0, index)) for index in range(60))
