"""Reports of phantom version 2: many styles, one truth."""

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest

from medcodi.data.reports import normalise_report, sections
from medcodi.data.sources.phantom import draw_visit
from medcodi.data.sources.phantom.body import PREVALENCE
from medcodi.data.sources.phantom.reports import LOOSE, phrases, report
from medcodi.metrics.labeler import cites_prior, label_report
from medcodi.randomness import numpy_generator
from medcodi.study import Finding

SIDELESS = {"Cardiomegaly", "Edema"}  # on no side, or always on both


def disagreements(visit) -> Counter:
    """What the labeler reads in a report beside its truth: ``(kind, label)``."""
    truth = {finding.label: finding for finding in visit.findings}
    affirmed = [finding for finding in label_report(visit.report) if finding.state != "negative"]
    read = {finding.label for finding in affirmed} - {"No Finding", "Lung Opacity"}
    wrong = Counter(
        [("missing", label) for label in truth.keys() - read] + [("extra", label) for label in read - truth.keys()]
    )
    for finding in affirmed:
        expected = truth.get(finding.label)
        if expected is None:
            continue
        if finding.label not in SIDELESS and finding.side != expected.side:
            wrong["side", finding.label] += 1
        if expected.size and finding.size != expected.size:
            wrong["degree", finding.label] += 1
        if expected.location and finding.location != expected.location:
            wrong["lobe", finding.label] += 1
    return wrong


def check_agreement(num: int) -> None:
    """The labeler reads every finding, with side, degree and lobe; only a consolidation may be called an opacity on purpose."""
    wrong, present, uncertain = Counter(), Counter(), Counter()
    for index in range(num):
        for studies_per_patient in (1, 5):
            visit = draw_visit(9, index, studies_per_patient)
            wrong += disagreements(visit)
            present.update(finding.label for finding in visit.findings)
            read = label_report(visit.report)
            uncertain.update({finding.label for finding in read if finding.state == "uncertain"})
            if ("missing", "Consolidation") in disagreements(visit):
                assert any(f.label == "Lung Opacity" and f.state != "negative" for f in read), visit.report
    vague = wrong.pop(("missing", "Consolidation"), 0) / present["Consolidation"]
    assert not wrong
    assert abs(vague - LOOSE) < 4 * np.sqrt(LOOSE / present["Consolidation"])
    assert set(present) == set(PREVALENCE)
    assert all(uncertain[label] < 0.15 * present[label] + 2 for label in PREVALENCE)


def test_the_labeler_reads_the_truth():
    check_agreement(75)


@pytest.mark.long
def test_the_labeler_reads_the_truth_of_two_thousand_reports():
    check_agreement(1000)


def test_every_phrase_of_a_finding_is_read_as_what_it_says():
    for label, row in phrases()["findings"].items():
        finding = next(f for index in range(200) for f in draw_visit(2, index).findings if f.label == label)
        body = draw_visit(2, 0).body
        for seed, before in product(range(25), (None, (), (finding,))):
            text = report(numpy_generator("phrase", label, seed), body, "PA", [finding], before)
            read = {f.label for f in label_report(text) if f.state != "negative"} - {"No Finding"}
            allowed = {label, "Lung Opacity"} if "loose" not in row else {"Consolidation", "Lung Opacity"}
            assert read and read <= allowed, text


def test_reports_differ_in_style_and_stay_in_normal_form():
    texts = [draw_visit(6, index).report for index in range(600)]
    assert len(set(texts)) > 590
    layouts = Counter("+".join(name for name in ("findings", "impression") if name in sections(text)) for text in texts)
    assert (
        layouts["findings+impression"] > 400
        and layouts["impression"] > 30
        and layouts["findings"] > 5
        and layouts[""] > 10
    )
    assert (
        5
        < sum(
            text.splitlines()[-1].partition(":")[2] == text.splitlines()[-1].partition(":")[2].lower() for text in texts
        )
        < 90
    )
    for text in texts:
        assert normalise_report(text) == text and not re.search(r"[\[\]{}|]", text) and len(text.split()) < 150


def test_only_a_second_study_is_compared_with_one_before():
    first = [draw_visit(8, index * 5, 5).report for index in range(200)]
    second = [draw_visit(8, index * 5 + 1, 5) for index in range(200)]
    assert not any(map(cites_prior, first))
    assert np.mean([cites_prior(visit.report) for visit in second]) > 0.4
    body = second[0].body
    small, large = (Finding(label="Pleural Effusion", side="left", size=size) for size in ("small", "large"))
    for now, before, words in (
        (large, small, "increase|larger|worse|enlarging|progressed"),
        (small, large, "decreas|improv"),
        (small, small, "stable|unchanged|persistent|again|change|similar"),
    ):
        text = " ".join(report(numpy_generator("change", seed), body, "PA", [now], [before]) for seed in range(20))
        assert re.search(words, text, re.I)
