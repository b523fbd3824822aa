"""A study's report, from a grammar: many phrasings, negations, sides, sizes, FINDINGS and IMPRESSION (phrases_version_1.yaml)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import numpy as np
import yaml

from medcodi.data.sources.phantom.body import pick
from medcodi.study import Finding

_PHRASES = yaml.safe_load(resources.files(__spec__.parent).joinpath("phrases_version_1.yaml").read_text("utf-8"))
# Finding -> sentences that affirm it, sentences that deny it, and impressions of it.
POSITIVE, NEGATIVE, IMPRESSION = (_PHRASES[name] for name in ("positive", "negative", "impression"))
_HEART = {"small": "mildly", "moderate": "moderately", "large": "severely"}
_DEGREE = {"small": "mild", "moderate": "moderate", "large": "severe"}
MAX_NEGATIVES = 4


def _say(rng: np.random.Generator, template: str, finding: Finding | None = None) -> str:
    """Choose among ``[a|b]`` and fill in what the finding is."""
    while "[" in template:
        before, _, rest = template.partition("[")
        inside, _, after = rest.partition("]")
        template = before + pick(rng, inside.split("|")) + after
    if finding is None:
        return template
    size = finding.size or "moderate"
    adverb = "{size_heart} enlarged" in template.lower() or "is {size_heart}" in template
    words = {
        "size": size,
        "side": finding.side or "",
        "loc": finding.location or "",
        "size_edema": _DEGREE[size],
        "size_heart": _HEART[size] if adverb else _DEGREE[size],
    }
    for key, word in words.items():
        template = template.replace("{" + key + "}", word).replace("{" + key.capitalize() + "}", word.capitalize())
    return template


def report(rng: np.random.Generator, findings: Sequence[Finding]) -> str:
    """The report of a study with these findings.

    Args:
        rng: Chooses phrasings, order, and which absent findings are denied.
        findings: Positive findings.

    Returns:
        Two lines, ``FINDINGS: ...`` and ``IMPRESSION: ...``: the normal form of reports.
    """
    present = [findings[index] for index in rng.permutation(len(findings))]
    absent = [label for label in NEGATIVE if label not in {finding.label for finding in findings}]
    denied = [absent[index] for index in rng.permutation(len(absent))[: int(rng.integers(2, MAX_NEGATIVES + 1))]]
    sentences = [_say(rng, pick(rng, POSITIVE[finding.label]), finding) for finding in present]
    if not {finding.label for finding in findings} - {"Support Devices", "Cardiomegaly"} and rng.random() < 0.5:
        sentences.append(_say(rng, pick(rng, _PHRASES["clear"])))
    sentences += [_say(rng, pick(rng, NEGATIVE[label])) for label in denied]
    summary = [_say(rng, pick(rng, IMPRESSION[finding.label]), finding) for finding in present]
    summary = summary or [_say(rng, pick(rng, _PHRASES["normal"]))]
    return f"FINDINGS: {pick(rng, _PHRASES['openings'])}{' '.join(sentences)}\nIMPRESSION: {' '.join(summary)}"
