"""Statements merged into reports: what they name is replaced, everything else stays."""

from __future__ import annotations

import pytest

from medcodi.data.sources.phantom import phantom_report
from medcodi.errors import DataError, PromptError
from medcodi.generation.statements import merged_report
from medcodi.metrics.labeler import label_report, labels_from_findings

REPORT = (
    "INDICATION: Rule out effusion.\n"
    "FINDINGS: PA and lateral chest. The lungs are clear. Small right pleural effusion. Heart size is normal. No pneumothorax.\n"
    "IMPRESSION: Small right pleural effusion."
)


@pytest.mark.parametrize(
    ("statements", "merged"),
    [
        (
            "Large left pneumothorax.",
            "INDICATION: Rule out effusion.\n"
            "FINDINGS: Large left pneumothorax. PA and lateral chest. The lungs are clear. Small right pleural effusion. "
            "Heart size is normal.\n"
            "IMPRESSION: Large left pneumothorax. Small right pleural effusion.",
        ),
        (  # A denial stands among the findings alone; an impression that says nothing more is gone.
            "No pleural effusion.",
            "INDICATION: Rule out effusion.\n"
            "FINDINGS: No pleural effusion. PA and lateral chest. The lungs are clear. Heart size is normal. No pneumothorax.",
        ),
        (  # Edema is an opacity, so the lungs are not clear.
            "FINDINGS: Edema is new. IMPRESSION: Edema.",
            "INDICATION: Rule out effusion.\n"
            "FINDINGS: Edema is new. PA and lateral chest. Small right pleural effusion. Heart size is normal. No pneumothorax.\n"
            "IMPRESSION: Edema. Small right pleural effusion.",
        ),
    ],
)
def test_what_is_not_named_stays(statements: str, merged: str) -> None:
    assert merged_report(REPORT, statements) == merged


def test_further_findings_of_a_sentence_that_goes_are_said_anew() -> None:
    report = (
        "FINDINGS: Left effusion and a large right upper lobe nodule. No edema or effusion. IMPRESSION: Normal chest."
    )
    assert merged_report(report, "No effusion.") == (
        "FINDINGS: No effusion. Large right upper zone lung lesion.\nIMPRESSION: Normal chest."
    )
    assert merged_report("Normal chest. Clavicles are intact.", "Pacemaker in place.") == (
        "Pacemaker in place. Clavicles are intact."
    )
    assert merged_report("INDICATION: Cough.", "Effusion.") == "INDICATION: Cough.\nFINDINGS: Effusion."


@pytest.mark.parametrize("statement", ["Large left pleural effusion.", "No pneumothorax.", "Severe pulmonary edema."])
def test_findings_of_phantoms_that_are_not_named_stay_and_the_named_one_is_as_stated(statement: str) -> None:
    stated = labels_from_findings(label_report(statement))
    (named,) = {finding.label for finding in label_report(statement)} - {"No Finding"}
    for index in range(60):
        report = phantom_report(seed=11, index=index)
        before, after = (
            labels_from_findings(label_report(text)) for text in (report, merged_report(report, statement))
        )
        assert after[named] == stated[named]
        changed = {named, "No Finding", "Lung Opacity"}
        assert {label for label, value in before.items() if value == 1} - changed == (
            {label for label, value in after.items() if value == 1} - changed
        )


def test_statements_that_name_nothing_are_refused() -> None:
    for statements in ("The patient is well.", "PA and lateral chest."):
        with pytest.raises(PromptError, match="nothing to change"):
            merged_report(REPORT, statements)
    with pytest.raises(DataError):
        merged_report(REPORT, " ")
