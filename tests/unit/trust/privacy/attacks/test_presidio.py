from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medcodi.data.sources.phantom import phantom_report
from medcodi.trust.privacy.attacks.extraction import extraction_figures, measure
from medcodi.trust.privacy.attacks.identifiers import ENTITIES, entities_in
from medcodi.trust.privacy.gate import RULES

pytest.importorskip("presidio_analyzer", reason="needs the extra phi, which is no part of CI's: spacy is large")


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("Write to a.b@clinic.org.", "EMAIL_ADDRESS"),
        ("Call (617) 555-0123 with questions.", "PHONE_NUMBER"),
        ("Compared with 03/14/2019.", "DATE_TIME"),
        ("The social security number is 536-22-8726.", "US_SSN"),
        ("Paid with 4012-8888-8888-1881.", "CREDIT_CARD"),
    ],
)
def test_entities_are_found_by_form(text: str, entity: str) -> None:
    assert entity in entities_in(text) and set(entities_in(text)) <= set(ENTITIES)


@pytest.mark.parametrize(
    "text",
    [
        "A nodule of 12 x 14 mm, previously 10 mm.",
        "Fracture of T11-T12, and of the 7th rib; the tube ends 4.5 cm above the carina.",
        "An 85-year-old man. The cardiothoracic ratio is 55%.",
        phantom_report(0, 3),
    ],
)
def test_clinical_numbers_are_white_listed(text: str) -> None:
    assert entities_in(text) == {}


def test_its_findings_stand_beside_those_of_our_rules_and_are_judged() -> None:
    class Reports:
        patients = [f"p{row}" for row in range(40)]
        texts = ["The lungs are clear."] * 40

        def __len__(self) -> int:
            return 40

        def values(self, _: str, rows: Any) -> list[str]:
            return [self.texts[row] for row in rows]

    studies: Any = Reports()
    made = ["Write to a.b@clinic.org.", *studies.texts[1:]]
    arrays = measure(studies, {"report": made}, range(40), 4, presidio=True)
    split = {("frontal->report", "report"): {name.split("/")[1]: array for name, array in arrays.items()}}
    family = extraction_figures(split, None, np.repeat([1, 0], 20), studies.patients, 200, 0)
    own, theirs = family["identifiers"]
    assert own["categories"] == {"e-mail address": 1} and "by" not in own
    assert (
        theirs["by"] == "presidio" and theirs["categories"]["EMAIL_ADDRESS"] == 1 and theirs["generated"]["hits"] == 1
    )
    judged = dict(RULES["identifier_share"].figures({"extraction": family}))
    assert set(judged) == {"frontal->report, report", "frontal->report, report by presidio"}
