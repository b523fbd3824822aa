"""The rule labeler: the text of a report -> findings with label, state, side, location and size.

Per sentence: mentions of a vocabulary, then the scopes of negation and uncertainty, then side, location and size near the mention
(the family of NegEx, NegBio and the CheXpert labeler; rules and vocabulary are this project's own).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from medcodi.metrics.findings import UncertainPolicy, resolve_uncertain
from medcodi.metrics.labeler_rules import Mention, bounded, concept_spans, place_of, sentences, vocabulary
from medcodi.metrics.labeler_states import read_scopes, state_of
from medcodi.study import CHEXPERT_LABELS, Finding

_RANK = {"positive": 2, "uncertain": 1, "negative": 0}
# kinds of lung opacity: one of them is one (the label hierarchy of Irvin et al. 2019, figure 1)
_OPACITIES = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
# a positive finding among these does not make a study abnormal (CheXpert, Irvin et al. 2019, section 2.3)
_NOT_PATHOLOGIC = ("No Finding", "Support Devices")


def mentions(report: str) -> list[Mention]:
    """Every mention in the findings and impression of a report, in order; concepts are finer than labels, and some have none."""
    return [
        replace(mention, sentence=number)
        for number, sentence in enumerate(sentences(report))
        for mention in _mentions_in(sentence)
    ]


@lru_cache(maxsize=4096)  # reports repeat their sentences
def _mentions_in(sentence: str) -> tuple[Mention, ...]:
    words, result = vocabulary(), []
    spans = concept_spans(sentence)
    if not spans:
        return ()
    scopes = read_scopes(sentence, [span for span, _ in spans])
    for index, (span, concept) in enumerate(spans):
        # A normal concept ("clear lungs") negates labels, and is no mention itself.
        row = words.concepts[concept]
        result.extend(Mention(concept, label, "negative") for label in row.get("negates", ()))
        if "negates" in row or row.get("normal"):
            continue
        # State, then side, location and size near it; a hypothetical mention has no state.
        state = state_of(scopes, span)
        if state is not None:
            side, location, size = place_of(sentence, spans, index)
            result.append(Mention(concept, row.get("label"), state, side, location, size))
    return tuple(result)


def label_report(report: str) -> tuple[Finding, ...]:
    """Findings of a report, in CheXpert's order; ``No Finding`` is positive where nothing pathologic is positive or uncertain.

    Mentions of one label and side are one finding: positive outweighs uncertain, and that negative. A mention without a side joins one with it.
    """
    # The strongest state of each label.
    strongest: dict[str, str] = {}
    labelled = [mention for mention in mentions(report) if mention.label]
    for mention in labelled:
        assert mention.label is not None
        if _RANK[mention.state] >= _RANK.get(strongest.get(mention.label, ""), -1):
            strongest[mention.label] = mention.state
    # One finding for each label in that state and each side.
    findings = []
    for label in CHEXPERT_LABELS:
        if label not in strongest:
            continue
        agreeing = [mention for mention in labelled if mention.label == label and mention.state == strongest[label]]
        findings.extend(_by_side(label, strongest[label], agreeing))
    if all(state == "negative" or label in _NOT_PATHOLOGIC for label, state in strongest.items()) and report.strip():
        findings.insert(0, Finding(label="No Finding"))
    return tuple(findings)


def _by_side(label: str, state: str, group: list[Mention]) -> list[Finding]:
    """Findings of one label from its mentions: one for each side, or one without a side."""
    sides = [side for side in ("left", "right", "bilateral") if any(mention.side == side for mention in group)]
    findings = []
    for side in sides or [None]:
        here = [mention for mention in group if mention.side == side] or group
        location, size = (
            next((value for mention in here if (value := getattr(mention, name))), None)
            for name in ("location", "size")
        )
        findings.append(Finding(label=label, side=side, location=location, size=size, state=state))
    return findings


def labels_from_findings(findings: Sequence[Finding]) -> dict[str, float]:
    """CheXpert name -> 1 positive, 0 negative, -1 uncertain; labels that are not mentioned have no key.

    Positive outweighs uncertain outweighs negative; ``Lung Opacity`` takes over the strongest state of its kinds, if that is not negative.
    """
    labels: dict[str, float] = {}
    for finding in sorted(findings, key=lambda finding: _RANK[finding.state]):
        labels[finding.label] = {"positive": 1.0, "negative": 0.0, "uncertain": -1.0}[finding.state]
    # The hierarchy of opacities; 1 last, because it outweighs -1.
    for value in (-1.0, 1.0):
        if any(labels.get(kind) == value for kind in _OPACITIES) and labels.get("Lung Opacity") != 1.0:
            labels["Lung Opacity"] = value
    labels.setdefault("No Finding", 0.0)
    return labels


def label_matrix(
    reports: Sequence[str], labels: Sequence[str] = CHEXPERT_LABELS, *, uncertain: UncertainPolicy = "positive"
) -> np.ndarray:
    """Labels of many reports: float64 ``[N, K]`` of 0 and 1 (and NaN under ``uncertain="ignore"``).

    What is not mentioned counts as absent; an empty report has no positive label, not even ``No Finding``.
    """
    states = [labels_from_findings(label_report(report)) for report in reports]
    rows = [[state.get(label, 0.0) for label in labels] for state in states]
    return resolve_uncertain(np.array(rows, dtype=np.float64).reshape(len(reports), len(labels)), uncertain)


# What can only be said beside an earlier study. "Increased" and "new" alone are no such words: markings are increased, new is a device.
_PRIOR = bounded(
    (
        "unchanged|stable|stably|persistent|persists?",
        "again (?:is |are )?(?:seen|noted|demonstrated|identified|visualized|shown)",
        "(?:has|have) (?:also |now |partially |completely |slightly |significantly )?"
        "(?:resolved|cleared|improved|worsened|increased|decreased|progressed|enlarged|developed|not changed|re-?accumulated)",
        "not (?:significantly |substantially |appreciably )?changed",
        "(?:worsening|worsened|improving|improved|enlarging|increasing|decreasing|resolving|resolved)",
        "new(?= (?:\\w+ ){0,3}(?:effusions?|pneumothora\\w+|consolidations?|opacit\\w+|infiltrates?|edema|nodules?|mass|atelectasis))(?<!no new)",
        "interval (?:change|increase|decrease|development|resolution|clearing|improvement|worsening|removal|placement|progression)",
        "(?:no|without) (?:significant |substantial |appreciable |interval )*change",
        "(?:compared|similar) (?:to|with)(?! (?:the )?(?:left|right))|(?:larger|smaller) than (?:on|in) (?:the )?(?:prior|previous|last)",
        "(?<!no )(?<!no available )(?<!comparison with )(?:prior|previous|earlier|last) (?:chest )?"
        "(?:study|studies|exams?|examinations?|radiographs?|films?|x-?rays?|images?|cts?)",
        "(?:from|since|to) (?:the )?(?:prior|previous)|previously (?:seen|noted|described|identified)",
    )
)


def cites_prior(report: str) -> bool:
    """Whether the findings or impression of a report speak of an earlier study: "unchanged", "has improved", "compared to the prior".

    A comparison section, which names the study or says that there is none, does not count, nor does advice to compare.
    """
    return any(_PRIOR.search(sentence) for sentence in sentences(report))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that carry no content, so that any few sentences hold some: English ones, and those of other European languages.
_ENGLISH = _words(
    """the is are was were of and or with without there has have been not this that which from at by on to for be seen
    noted within evidence normal clear unchanged small large left right mild acute chest heart lungs lung size both"""
)
_OTHERS = _words(
    """el los las del una sin con por para se observa y al derecho izquierdo pulmonar normales tamaño derrame
    der die das und kein keine keinen nicht ist sind mit ohne ein eine im beidseits rechts links herz lunge erguss zeigt
    le les des du et est sont pas avec sans une au aux dans gauche droit poumon coeur épanchement
    il lo gli della delle e è sono non senza destro sinistro polmonare cuore versamento
    os da dos das um uma não sem são pulmão direito esquerdo coração
    het een geen niet met zonder zijn rechter linker hart long
    och inte är med utan av till höger vänster"""
)


def looks_english(text: str) -> bool:
    """Whether a report can pass for English, the only language that the rules read; by script and function words, without a model.

    False if more than a third of its letters are outside the Latin script, or if function words of other European languages
    outnumber the English ones (and are at least two). A text without letters passes.
    """
    # The script.
    letters = [character for character in text if character.isalpha()]
    if letters:
        foreign = sum(not unicodedata.name(letter, "").startswith(("LATIN", "GREEK", "MICRO")) for letter in letters)
        if foreign > len(letters) / 3:
            return False
    # The function words.
    words = re.findall(r"[^\W\d_]+", text.lower())
    english = sum(word in _ENGLISH for word in words)
    others = sum(word in _OTHERS for word in words)
    return others < 2 or others <= english
