from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medcodi.data.reports import normalise_report, sections
from medcodi.data.sources.phantom import phantom_findings, phantom_report, phantom_study
from medcodi.data.sources.phantom.body import PREVALENCE
from medcodi.study import CHEXPERT_LABELS

SEEDS = st.integers(0, 2**31)
INDICES = st.integers(0, 29_999_999)
# Written from the reader's side, not from the grammar's tables.
MENTION = {
    "Cardiomegaly": r"enlarge|increased|above normal|cardiomegaly",
    "Pleural Effusion": r"effusion|pleural fluid|costophrenic",
    "Pneumothorax": r"pneumothorax",
    "Consolidation": r"consolidat",
    "Edema": r"edema|vasculature",
    "Lung Lesion": r"nodule",
    "Atelectasis": r"atelectasis|in normal position",
    "Support Devices": r"pacemaker|devices?\b",
}
DENIAL = (
    r"^(no|there is no|there are no|negative for)\b|free of|not enlarged|angles are|vasculature is normal|in normal"
)


def mentions(text: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """(affirming, denying) sentences by finding."""
    affirmed: dict[str, list[str]] = {}
    denied: dict[str, list[str]] = {}
    for sentence in re.split(r"(?<=\.)\s+", text.lower()):
        for label, pattern in MENTION.items():
            if re.search(pattern, sentence):
                kind = denied if re.search(DENIAL, sentence) else affirmed
                kind.setdefault(label, []).append(sentence)
    return affirmed, denied


@given(seed=SEEDS, index=INDICES)
@settings(max_examples=200)
def test_every_finding_is_named_with_its_side_and_nothing_else_is(seed: int, index: int) -> None:
    findings = phantom_findings(seed, index)
    present = {finding.label for finding in findings}
    assert present <= set(PREVALENCE)
    assert len(present) == len(findings)
    found = sections(phantom_report(seed, index))
    for section in ("findings", "impression"):
        affirmed, denied = mentions(found[section])
        assert set(affirmed) == present
        assert not set(denied) & present
    affirmed, denied = mentions(found["findings"])
    assert denied
    for finding in findings:
        if finding.side is not None and finding.label != "Edema":  # which is always bilateral
            assert any(finding.side in sentence for sentence in affirmed[finding.label])
        if finding.location is not None and finding.label != "Atelectasis":
            assert any(finding.location in sentence for sentence in affirmed[finding.label])


@given(seed=SEEDS, index=INDICES)
@settings(max_examples=200)
def test_reports_are_in_normal_form_and_short(seed: int, index: int) -> None:
    report = phantom_report(seed, index)
    assert normalise_report(report) == report
    assert len(report.split()) < 130
    assert not re.search(r"[\[\]{}|]", report)
    assert report == phantom_report(seed, index)


@given(seed=SEEDS, index=INDICES)
@settings(max_examples=10)
def test_any_study_is_whole(seed: int, index: int) -> None:
    study = phantom_study(seed, index, 32)
    for film in study.images.values():
        assert film.shape == (32, 32)
        assert film.dtype == np.float32
        assert np.isfinite(film).all()
        assert film.min() >= 0 and film.max() <= 1
        assert film.std() > 0.08
    present = {label for label, value in study.labels.items() if value == 1}
    named = {finding.label for finding in study.findings}
    assert list(study.labels) == list(CHEXPERT_LABELS)
    assert present & set(PREVALENCE) == named
    assert ("No Finding" in present) == (named <= {"Support Devices"})
    assert ("Lung Opacity" in present) == bool(named & {"Consolidation", "Edema", "Lung Lesion", "Atelectasis"})
