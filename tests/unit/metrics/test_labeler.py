"""The rule labeler: negation, uncertainty, sides, places, sizes, sections; real reports where they are at hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from medcodi.data.sources.phantom import phantom_findings, phantom_report
from medcodi.metrics import label_matrix, label_report, labels_from_findings
from medcodi.metrics.labeler import cites_prior, looks_english, mentions
from medcodi.study import CHEXPERT_LABELS, Finding

OPENI = Path(__file__).resolve().parents[4] / "shared" / "data" / "reports" / "openi_reports.csv"


def state(report: str, label: str) -> float | None:
    return labels_from_findings(label_report(report)).get(label)


@pytest.mark.parametrize(
    ("report", "label", "expected"),
    [
        ("The heart is mildly enlarged.", "Cardiomegaly", 1),
        ("Cardiac silhouette size is moderately increased.", "Cardiomegaly", 1),
        ("Heart size is normal.", "Cardiomegaly", 0),
        ("The cardiomediastinal silhouette is within normal limits.", "Cardiomegaly", 0),
        ("There is no pneumothorax.", "Pneumothorax", 0),
        ("No focal consolidation, large pleural effusion, or pneumothorax.", "Pleural Effusion", 0),
        ("No focal consolidation, large pleural effusion, or pneumothorax.", "Pneumothorax", 0),
        ("No pneumothorax, but a small effusion on the left.", "Pleural Effusion", 1),
        ("No pneumothorax. Small effusion.", "Pleural Effusion", 1),
        ("No change in the moderate right pleural effusion.", "Pleural Effusion", 1),
        ("Pleural effusion is not seen.", "Pleural Effusion", 0),
        ("The previously seen pneumothorax has resolved.", "Pneumothorax", 0),
        ("Lungs are clear without evidence of consolidation or edema.", "Edema", 0),
        ("The lungs are free of nodules.", "Lung Lesion", 0),
        ("Opacity in the left base may represent pneumonia.", "Pneumonia", -1),
        ("A small pneumothorax cannot be excluded.", "Pneumothorax", -1),
        ("Possible right apical pneumothorax.", "Pneumothorax", -1),
        ("Atelectasis versus pneumonia at the left base.", "Pneumonia", -1),
        ("Small pericardial effusion.", "Pleural Effusion", None),
        ("A dual-chamber pacemaker projects over the left chest.", "Support Devices", 1),
        ("Endotracheal tube in satisfactory position.", "Support Devices", 1),
        ("Old healed right rib fractures.", "Fracture", 1),
        ("Cephalization of the pulmonary vessels.", "Edema", 1),
        ("INDICATION: evaluate for pneumonia. FINDINGS: The lungs are clear.", "Pneumonia", None),
        ("History of pneumothorax. Lungs are clear.", "Pneumothorax", None),
    ],
)
def test_states(report: str, label: str, expected: float | None) -> None:
    assert state(report, label) == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Large left pleural effusion.", Finding(label="Pleural Effusion", side="left", size="large")),
        (
            "There is a small pleural effusion on the right.",
            Finding(label="Pleural Effusion", side="right", size="small"),
        ),
        ("Trace bilateral pleural effusions.", Finding(label="Pleural Effusion", side="bilateral", size="small")),
        ("Small effusions on both sides.", Finding(label="Pleural Effusion", side="bilateral", size="small")),
        (
            "Small right and moderate left pleural effusions.",
            Finding(label="Pleural Effusion", side="bilateral", size="moderate"),
        ),
        ("Consolidation in the right upper lobe.", Finding(label="Consolidation", side="right", location="upper")),
        ("LLL consolidation.", Finding(label="Consolidation", side="left", location="lower")),
        (
            "Moderate right apical pneumothorax.",
            Finding(label="Pneumothorax", side="right", location="upper", size="moderate"),
        ),
    ],
)
def test_side_place_size(report: str, expected: Finding) -> None:
    assert [finding for finding in label_report(report) if finding.label == expected.label] == [expected]


def test_two_findings_of_one_sentence_keep_their_sides() -> None:
    found = {
        finding.label: finding
        for finding in label_report("Small left pleural effusion and right lower lobe consolidation.")
    }
    assert found["Pleural Effusion"].side == "left" and found["Pleural Effusion"].size == "small"
    assert found["Consolidation"].side == "right" and found["Consolidation"].location == "lower"


def test_positive_outweighs_uncertain_outweighs_negative() -> None:
    assert state("No effusion. Possible effusion.", "Pleural Effusion") == -1
    assert state("Possible effusion. There is a small effusion.", "Pleural Effusion") == 1


def test_no_finding() -> None:
    assert state("Heart size is normal. The lungs are clear. No effusion.", "No Finding") == 1
    assert state("A pacemaker is present. The lungs are clear.", "No Finding") == 1  # a device is no disease
    assert state("Small effusion.", "No Finding") == 0
    assert not label_matrix([""]).any()


def test_matrix_and_uncertain_policy() -> None:
    column = CHEXPERT_LABELS.index("Pneumothorax")
    reports = ["Possible pneumothorax.", "Pneumothorax.", "No pneumothorax."]
    assert label_matrix(reports)[:, column].tolist() == [1, 1, 0]
    assert label_matrix(reports, uncertain="negative")[:, column].tolist() == [0, 1, 0]
    np.testing.assert_array_equal(label_matrix(reports, uncertain="ignore")[:, column], [np.nan, 1, 0])


@pytest.mark.parametrize("report", ["", "   ", "XXXX ___ .", "1.5 cm", "no", "\n\n", "à l'œil nu ⚕"])
def test_odd_texts_are_read_without_complaint(report: str) -> None:
    assert isinstance(label_report(report), tuple)


# The gold columns of Open-i name concepts rather than CheXpert labels (infiltration; mass and nodule apart; emphysema and fibrosis, which
# CheXpert has not), so they are held against the labeler's concepts of the same names. An uncertain mention counts as negative.
OPENI_CONCEPTS = (
    "atelectasis",
    "cardiomegaly",
    "effusion",
    "infiltration",
    "mass",
    "nodule",
    "pneumonia",
    "pneumothorax",
    "consolidation",
    "edema",
    "emphysema",
    "fibrosis",
    "pleural_thickening",
)


@pytest.mark.skipif(not OPENI.is_file(), reason=f"real reports are not at {OPENI}")
def test_real_reports() -> None:
    """Micro F1 and false positives among negated mentions over 3,070 reports with gold labels."""
    with OPENI.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["gold_normal"]]
    tp = fp = fn = negated = negated_wrong = 0
    for row in rows:
        found = mentions(f"{row['findings']}\n{row['impression']}")
        positive = {mention.concept for mention in found if mention.state == "positive"}
        negative = {mention.concept for mention in found if mention.state == "negative"}
        for concept in OPENI_CONCEPTS:
            gold = float(row[f"gold_{concept}"]) == 1
            tp, fp, fn = (
                tp + (gold and concept in positive),
                fp + (not gold and concept in positive),
                fn + (gold and concept not in positive),
            )
            if concept in negative and not gold:
                negated, negated_wrong = negated + 1, negated_wrong + (concept in positive)
    assert len(rows) == 3070
    assert 2 * tp / (2 * tp + fp + fn) >= 0.940
    assert negated_wrong <= 5 and negated >= 6117


def test_reports_of_phantoms_say_what_the_phantoms_have() -> None:
    for index in range(200):
        positive = {finding.label for finding in label_report(phantom_report(0, index)) if finding.state == "positive"}
        assert positive - {"No Finding"} == {finding.label for finding in phantom_findings(0, index)}


# ---- English or not ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Heart size normal. Lungs clear.", True),
        ("XXXX", True),
        ("", True),
        ("1.5 cm", True),
        ("Patient met criteria; die-cast clip projects over the chest.", True),
        ("No se observa derrame pleural. Silueta cardiaca de tamaño normal.", False),
        ("Pas d'épanchement pleural. Le coeur est de taille normale.", False),
        ("Assenza di versamento. Il cuore è nei limiti della norma.", False),
        ("Não há derrame pleural. O coração não está aumentado.", False),
        ("Geen pleuravocht, het hart is niet vergroot.", False),
        ("Сердце не увеличено, лёгкие чистые.", False),
        ("肺野清晰，心影不大。", False),
    ],
)
def test_english_or_not(text: str, english: bool) -> None:
    assert looks_english(text) is english


@pytest.mark.skipif(not OPENI.is_file(), reason=f"real reports are not at {OPENI}")
def test_no_real_english_report_is_taken_for_another_language() -> None:
    with OPENI.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3174
    assert all(looks_english(f"{row['findings']} {row['impression']}") for row in rows)


@pytest.mark.parametrize(
    ("text", "cites"),
    [
        ("FINDINGS: Unchanged small left effusion.", True),
        ("The right lower lobe consolidation has improved.", True),
        ("No significant interval change.", True),
        ("The effusion is larger than on the prior film.", True),
        ("New right pneumothorax.", True),
        ("COMPARISON: Prior chest radiograph.\nFINDINGS: Small left effusion.", False),
        ("COMPARISON: None.\nIMPRESSION: No acute disease.", False),
        ("No prior studies are available. Heart size is increased.", False),
        ("Interstitial markings are increased. Evidence of prior granulomatous disease.", False),
        ("Opacity of the right apex compared to the left. Recommend comparison with older films.", False),
        ("No new consolidation is suspected on this first film.", False),
        ("", False),
    ],
)
def test_a_report_cites_a_prior_if_it_speaks_of_change(text, cites):
    assert cites_prior(text) is cites
