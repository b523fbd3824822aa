"""Statements about findings merged into a report: what they name is theirs, everything else stays as the report says."""

from __future__ import annotations

import re

from medcodi.data.reports import normalise_report, sections
from medcodi.errors import PromptError
from medcodi.metrics.labeler import label_report, labels_from_findings, mentions
from medcodi.metrics.labeler_rules import concept_spans, sentences, vocabulary
from medcodi.study import Finding

_EDITED = ("", "findings", "impression")  # sections that speak of this examination
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")


def merged_report(report: str, statements: str) -> str:
    """The report after some statements: its sentences about findings that they name are replaced by them, all others stay.

    A finding is named by its label, whatever its side. A sentence that goes and affirms further findings has those said anew; that
    the study is normal goes where a statement affirms a finding. The result is in the normal form of reports.

    Raises:
        PromptError: If the labeler reads no finding in the statements.
        Refused: If one of the texts is no report.
    """
    report, statements = normalise_report(report), normalise_report(statements)
    named = {mention.label for mention in mentions(statements) if mention.label}
    if not named:
        raise PromptError(
            f"nothing to change: no finding is named in {statements[:60]!r}",
            expected="statements about findings, such as 'Large left pleural effusion.' or 'No edema.'",
            fix="name a finding, or give the whole report and replace=True (--replace)",
        )
    affirmed = any(_affirms(sentence) for sentence in _SENTENCE_END.split(statements))
    # A kind of opacity (edema) is one, so that "clear lungs", which denies any, goes with it.
    opacity = labels_from_findings(label_report(statements)).get("Lung Opacity", 0.0) != 0.0
    # Keep what the statements do not name, and say theirs first.
    old, new = sections(report), sections(statements)
    if not set(_EDITED) & set(old):
        old["findings"] = ""
    result = {}
    for name, body in old.items():
        if name not in _EDITED:
            result[name] = body
            continue
        old_sentences = _SENTENCE_END.split(body)
        stays = [part for sentence in old_sentences for part in _what_stays(sentence, named, affirmed, opacity)]
        result[name] = " ".join(filter(None, [_said(new, name, set(old)), *stays]))
    return normalise_report("\n".join(f"{name.upper()}: {body}" if name else body for name, body in result.items()))


def _what_stays(sentence: str, named: set[str], affirmed: bool, opacity: bool) -> list[str]:
    """The part of a report's sentence that stays: itself, nothing, or its other findings said anew."""
    denied = {"Lung Opacity"} if opacity else set()
    if not any(
        each.label in named or (each.state == "negative" and each.label in denied) for each in mentions(sentence)
    ):
        return [] if affirmed and _says_normal(sentence) else [sentence] if sentence else []
    findings = [finding for finding in label_report(sentence) if finding.label not in (*named, "No Finding")]
    return [_sentence_of(finding) for finding in findings if finding.state != "negative"]


def _said(statements: dict[str, str], name: str, present: set[str]) -> str:
    """The part of the statements that a section gets; an impression only repeats what is affirmed."""
    free = statements.get("", "")
    if name == "" or len(present & set(_EDITED)) == 1:
        return " ".join(filter(None, (free, statements.get("findings"), statements.get("impression"))))
    if name == "findings" or free == "":
        return " ".join(filter(None, (free, statements.get(name))))
    affirmed = [sentence for sentence in _SENTENCE_END.split(free) if _affirms(sentence)]
    return " ".join(filter(None, (*affirmed, statements.get(name))))


def _affirms(sentence: str) -> bool:
    return any(mention.label and mention.state != "negative" for mention in mentions(sentence))


def _says_normal(sentence: str) -> bool:
    """Whether a sentence without a finding says that the study is normal, or the lungs clear."""
    concepts = vocabulary().concepts
    return any(concepts[concept].get("normal") for part in sentences(sentence) for _, concept in concept_spans(part))


def _sentence_of(finding: Finding) -> str:
    """A finding in words, such as "Possible large left pleural effusion."."""
    location = finding.location and f"{finding.location} zone"
    words = ["possible" if finding.state == "uncertain" else None, finding.size, finding.side, location, finding.label]
    return " ".join(word.lower() for word in words if word).capitalize() + "."
