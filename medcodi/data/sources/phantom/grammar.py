"""A study's report, from a grammar: many phrasings, negations, sides, sizes, FINDINGS and IMPRESSION."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcodi.study import Finding

# {side} {loc} {size}: filled from the finding; "a|b" inside brackets is a choice.
POSITIVE: dict[str, tuple[str, ...]] = {
    "Cardiomegaly": (
        "The [heart|cardiac silhouette] is {size_heart} enlarged.",
        "There is {size_heart} cardiomegaly.",
        "{Size_heart} enlargement of the [heart|cardiac silhouette] is [seen|present|noted].",
        "The [heart size|cardiothoracic ratio] is {size_heart} increased.",
        "[Heart|Cardiac] size is {size_heart} above normal.",
    ),
    "Pleural Effusion": (
        "There is a {size} {side} pleural effusion.",
        "A {size} {side} pleural effusion is [seen|present|noted].",
        "{Size} pleural effusion on the {side} side.",
        "[Blunting|Obscuration] of the {side} costophrenic angle by a {size} effusion.",
        "{Size} {side} pleural fluid.",
    ),
    "Pneumothorax": (
        "There is a {size} {side} pneumothorax.",
        "A {size} {side} apical pneumothorax is [seen|present|noted].",
        "{Size} pneumothorax on the {side} with a visible pleural line.",
        "[Visible|A] visceral pleural line in keeping with a {size} {side} pneumothorax.",
    ),
    "Consolidation": (
        "There is consolidation in the {side} {loc} lobe.",
        "[Dense|Confluent] airspace consolidation in the {side} {loc} lobe.",
        "{Side} {loc} lobe consolidation is [seen|present|noted].",
        "The {side} {loc} lobe is consolidated.",
        "An area of consolidation [occupies|involves] the {side} {loc} lobe.",
    ),
    "Edema": (
        "There is {size_edema} pulmonary edema.",
        "{Size_edema} interstitial edema is [seen|present|noted].",
        "Bilateral perihilar haze in keeping with {size_edema} pulmonary edema.",
        "[Vascular indistinctness|Perihilar opacities] [from|due to] {size_edema} pulmonary edema.",
    ),
    "Lung Lesion": (
        "There is a {size} nodule in the {side} {loc} lobe.",
        "A {size} [rounded|well defined] nodule is [seen|present|noted] in the {side} {loc} lobe.",
        "{Size} pulmonary nodule, {side} {loc} lobe.",
        "A {size} nodule projects over the {side} {loc} zone.",
    ),
    "Atelectasis": (
        "There is atelectasis at the {side} base.",
        "{Side} lower lobe atelectasis with an elevated hemidiaphragm.",
        "[Plate like|Linear|Bandlike] atelectasis at the {side} lung base.",
        "Volume loss of the {side} lower lobe from atelectasis.",
    ),
    "Support Devices": (
        "A {side} sided pacemaker is in place.",
        "{Side} chest wall pacemaker with leads in the heart.",
        "A pacemaker projects over the {side} chest.",
        "There is a {side} pacemaker with [intact|two] leads.",
    ),
}

# Sentences that deny a finding.
NEGATIVE: dict[str, tuple[str, ...]] = {
    "Cardiomegaly": (
        "Heart size is normal.",
        "The cardiac silhouette is [normal|within normal limits].",
        "The heart is not enlarged.",
        "No cardiomegaly.",
    ),
    "Pleural Effusion": (
        "No pleural effusion.",
        "There is no [pleural effusion|pleural fluid].",
        "The costophrenic angles are [clear|sharp].",
        "No evidence of effusion.",
    ),
    "Pneumothorax": (
        "No pneumothorax.",
        "There is no pneumothorax.",
        "No evidence of pneumothorax.",
        "Negative for pneumothorax.",
    ),
    "Consolidation": (
        "No focal consolidation.",
        "There is no [consolidation|airspace consolidation].",
        "No evidence of consolidation.",
        "The lungs are free of consolidation.",
    ),
    "Edema": (
        "No pulmonary edema.",
        "There is no [edema|pulmonary edema].",
        "The pulmonary vasculature is normal.",
        "No evidence of edema.",
    ),
    "Lung Lesion": (
        "No [nodule|pulmonary nodule].",
        "There is no [nodule|suspicious nodule].",
        "No nodule or mass is seen.",
    ),
    "Atelectasis": ("No atelectasis.", "There is no atelectasis.", "Both hemidiaphragms are in normal position."),
    "Support Devices": (
        "No support devices.",
        "No [pacemaker|implanted device] is seen.",
        "There are no lines or devices.",
    ),
}

NORMAL_IMPRESSION = (
    "No acute cardiopulmonary [abnormality|process|disease].",
    "Normal chest [radiograph|examination].",
    "No acute findings.",
    "Unremarkable chest.",
)
LUNGS_CLEAR = (
    "The lungs are clear.",
    "Lungs are well expanded and clear.",
    "Both lungs are clear.",
    "Clear lungs bilaterally.",
)
OPENINGS = (
    "",
    "",
    "",
    "Frontal and lateral views of the chest. ",
    "Two views of the chest. ",
    "PA and lateral chest. ",
)
IMPRESSION: dict[str, tuple[str, ...]] = {
    "Cardiomegaly": ("{Size_heart} cardiomegaly.", "{Size_heart} enlarged heart."),
    "Pleural Effusion": ("{Size} {side} pleural effusion.", "{Size} {side} effusion."),
    "Pneumothorax": ("{Size} {side} pneumothorax.",),
    "Consolidation": ("{Side} {loc} lobe consolidation.", "Consolidation in the {side} {loc} lobe."),
    "Edema": ("{Size_edema} pulmonary edema.",),
    "Lung Lesion": ("{Size} nodule in the {side} {loc} lobe.", "{Side} {loc} lobe nodule."),
    "Atelectasis": ("{Side} basal atelectasis.", "{Side} lower lobe atelectasis."),
    "Support Devices": ("{Side} sided pacemaker.", "Pacemaker in place."),
}
_HEART = {"small": "mildly", "moderate": "moderately", "large": "severely"}
_DEGREE = {"small": "mild", "moderate": "moderate", "large": "severe"}
MAX_NEGATIVES = 4


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _say(rng: np.random.Generator, template: str, finding: Finding | None = None) -> str:
    """Choose among ``[a|b]`` and fill in what the finding is."""
    while "[" in template:
        before, _, rest = template.partition("[")
        inside, _, after = rest.partition("]")
        template = before + _choose(rng, inside.split("|")) + after
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
    sentences = [_say(rng, _choose(rng, POSITIVE[finding.label]), finding) for finding in present]
    if not {finding.label for finding in findings} - {"Support Devices", "Cardiomegaly"} and rng.random() < 0.5:
        sentences.append(_say(rng, _choose(rng, LUNGS_CLEAR)))
    sentences += [_say(rng, _choose(rng, NEGATIVE[label])) for label in denied]
    summary = [_say(rng, _choose(rng, IMPRESSION[finding.label]), finding) for finding in present]
    summary = summary or [_say(rng, _choose(rng, NORMAL_IMPRESSION))]
    return f"FINDINGS: {_choose(rng, OPENINGS)}{' '.join(sentences)}\nIMPRESSION: {' '.join(summary)}"
