from __future__ import annotations

from typing import Any

import numpy as np

from medcodi.trust.privacy.attacks.extraction import extraction_figures, measure, phrases, rare_phrases
from medcodi.trust.privacy.attacks.identifiers import RULES

NUM = 20


class Reports:
    """Real reports: one common sentence, and one with words of the study's own."""

    def __init__(self) -> None:
        self.patients = [f"p{row}" for row in range(2 * NUM)]
        self.texts = [
            f"The lungs are clear. A {row}th odd shadow{row} is near mark{row} there." for row in range(2 * NUM)
        ]

    def __len__(self) -> int:
        return len(self.texts)

    def values(self, _: str, rows: Any) -> list[str]:
        return [self.texts[row] for row in rows]


def figures(generated: list[str]) -> dict[str, Any]:
    studies: Any = Reports()
    arrays = measure(studies, {"report": generated}, range(2 * NUM), 4)
    split: dict[tuple[str, str], dict[str, np.ndarray]] = {("frontal->report", "report"): {}}
    for name, array in arrays.items():
        split["frontal->report", "report"][name.split("/")[1]] = array
    return extraction_figures(split, None, np.repeat([1, 0], NUM), studies.patients, 200, 0)


def test_phrases_are_rare_where_one_patient_alone_has_them() -> None:
    assert phrases("The lungs, are CLEAR today.", 4) == {
        ("the", "lungs", "are", "clear"),
        ("lungs", "are", "clear", "today"),
    }
    said = [phrases(text, 3) for text in ("a b c", "a b c d", "a b c d")]
    assert rare_phrases(said, ["x", "y", "y"]) == [set(), {("b", "c", "d")}, {("b", "c", "d")}]


def test_common_sentences_are_no_extraction_and_rare_ones_of_members_are() -> None:
    common = figures(["The lungs are clear."] * 2 * NUM)
    assert common["p_value"] == 1.0 and common["phrases"][0]["excess"]["value"] == 0
    texts = Reports().texts
    own = figures([text if row < NUM else "The lungs are clear." for row, text in enumerate(texts)])
    assert own["p_value"] < 1e-6 and own["phrases"][0]["excess"]["value"] == 1.0
    # A member's sentence in the report of somebody else.
    other = figures([texts[(row + 1) % NUM] for row in range(2 * NUM)])
    assert (
        other["phrases"][1]["of"] == "others" and other["phrases"][1]["excess"]["value"] > 1 and other["p_value"] < 1e-3
    )


def test_identifiers_are_counted_beside_those_of_real_reports() -> None:
    result = figures(["Seen on 03/14/2019.", *["The lungs are clear."] * (2 * NUM - 1)])["identifiers"][0]
    assert result["categories"] == {"date": 1} and result["generated"]["hits"] == 1
    assert 0 < result["generated"]["low"] < 1 / 40 and result["real"] == {"members": 0.0, "non_members": 0.0}
    assert len(RULES) >= 10
