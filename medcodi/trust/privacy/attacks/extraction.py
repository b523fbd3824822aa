"""Extraction: training reports that come back word by word, planted canaries, and identifiers in generated reports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medcodi.evaluation.studies import HeldOutStudies
from medcodi.metrics.paired import holm
from medcodi.modality import MODALITIES
from medcodi.trust.privacy.attacks.canaries import canary_figures
from medcodi.trust.privacy.attacks.identifiers import ENTITIES, RULES, entities_in, identifiers_in
from medcodi.trust.privacy.statistics import LEFT_OUT, MEMBER, NON_MEMBER, excess, share_interval

_WORD = re.compile(r"[a-z0-9]+")
# Array -> its columns, and what finds them in a text: the rules of our own, and presidio's recognisers.
FINDERS: dict[str, tuple[Sequence[str], Callable[[str], Mapping[str, Any]]]] = {
    "identifiers": (tuple(RULES), identifiers_in),
    "presidio": (ENTITIES, entities_in),
}


def phrases(text: str, words: int) -> set[tuple[str, ...]]:
    """Every run of this number of words, in lower case and without punctuation."""
    tokens = _WORD.findall(text.lower())
    return {tuple(tokens[start : start + words]) for start in range(len(tokens) - words + 1)}


# ---- measuring -------------------------------------------------------------------------------------------------------
def measure(
    studies: HeldOutStudies,
    contents: Mapping[str, Sequence[Any]],
    rows: Sequence[int],
    words: int,
    *,
    presidio: bool = False,
) -> dict[str, np.ndarray]:
    """Verbatim phrases and identifiers of every generated text of a direction, by row of all studies.

    A phrase is *rare* if the reports of one patient alone hold it, so that its return is no common sentence.

    Returns:
        ``"<target>/own"`` ``[N]``: share of the rare phrases of the study's own report that its generation repeats. ``"<target>/others"``
        ``[N]``: number of generations for other patients that repeat a rare phrase of the study. ``"<target>/identifiers"`` and
        ``"<target>/real identifiers"`` int ``[N, categories]``, whether the generated and the real report hold one; with ``presidio``
        also ``"<target>/presidio"`` and ``"<target>/real presidio"`` ``[N, entities]``.
    """
    measured: dict[str, np.ndarray] = {}
    for target in (name for name in contents if MODALITIES[name].kind == "text"):
        real = [str(value) for value in studies.values(target, rows)]
        rare = rare_phrases([phrases(text, words) for text in real], [studies.patients[row] for row in rows])
        owner = {phrase: place for place, own in enumerate(rare) for phrase in own}
        own, others = np.full(len(studies), np.nan), np.full(len(studies), np.nan)
        others[list(rows)] = 0.0
        for place, (row, text) in enumerate(zip(rows, contents[target], strict=True)):
            said = phrases(str(text), words)
            if rare[place]:
                own[row] = len(said & rare[place]) / len(rare[place])
            # Whose else's rare phrases it repeats; each study counts once.
            hit = {rows[owner[phrase]] for phrase in said if phrase in owner}
            for other in hit:
                if studies.patients[other] != studies.patients[row]:
                    others[other] += 1
        measured |= {f"{target}/own": own, f"{target}/others": others}
        for name, texts in (("", [str(value) for value in contents[target]]), ("real ", real)):
            for finder in FINDERS if presidio else ("identifiers",):
                measured[f"{target}/{name}{finder}"] = _marked(studies, rows, texts, finder)
    return measured


def _marked(studies: HeldOutStudies, rows: Sequence[int], texts: Sequence[str], finder: str) -> np.ndarray:
    """Whether the text of a row holds a passage of each category of a finder: int8 ``[N, categories]``."""
    categories, find = FINDERS[finder]
    table = np.zeros((len(studies), len(categories)), np.int8)
    for row, text in zip(rows, texts, strict=True):
        passages = find(text)
        table[row] = [name in passages for name in categories]
    return table


def rare_phrases(said: Sequence[set[tuple[str, ...]]], patients: Sequence[str]) -> list[set[tuple[str, ...]]]:
    """The phrases of each report that no other patient's report holds."""
    by_patient: dict[str, set[tuple[str, ...]]] = {}
    for own, patient in zip(said, patients, strict=True):
        by_patient.setdefault(patient, set()).update(own)
    counts = Counter(phrase for own in by_patient.values() for phrase in own)
    return [{phrase for phrase in own if counts[phrase] == 1} for own in said]


# ---- figures ---------------------------------------------------------------------------------------------------------
def extraction_figures(
    measured: Mapping[tuple[str, str], Mapping[str, np.ndarray]],
    canaries: dict[str, np.ndarray] | None,
    labels: np.ndarray,
    patients: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Canaries, verbatim phrases and identifiers of every (direction, target), and the family's p (Holm over all tests)."""
    left_out: list[dict[str, str]] = []
    figures: dict[str, Any] = {"canaries": None, "phrases": [], "identifiers": []}
    tests: list[float] = []
    if canaries is None or not len(canaries["rank"]):
        left_out.append({"figure": "exposure of canaries", "reason": "none were planted in the training data"})
    else:
        figures["canaries"] = canary_figures(canaries)
        tests += [figures["canaries"]["exposure"]["p_value"]] if "exposure" in figures["canaries"] else []
    for (direction, target), arrays in measured.items():
        named = {"direction": direction, "target": target}
        for kind in ("own", "others"):
            figure = excess(arrays[kind], labels, patients, resamples, seed, "phrases", direction, kind)
            if figure is None:
                reason = "too few patients have a phrase of their own"
                left_out.append({"figure": f"{direction}: phrases ({kind})", "reason": reason})
                continue
            figures["phrases"].append({**named, "of": kind, "excess": figure})
            tests.append(figure["p_value"])
        for by, (categories, _) in FINDERS.items():
            if by in arrays:
                found = _identifiers(arrays, labels, by, categories)
                figures["identifiers"].append({**named, **({} if by == "identifiers" else {"by": by}), **found})
    if not measured:
        left_out.append({"figure": "verbatim phrases and identifiers", "reason": "no direction generates a report"})
    return {**figures, "p_value": min(holm(tests), default=None), "num_tests": len(tests), "left_out": left_out}


def _identifiers(
    arrays: Mapping[str, np.ndarray], labels: np.ndarray, by: str, categories: Sequence[str]
) -> dict[str, Any]:
    """Share of generated reports with an identifier, and of each category, beside the real reports of each group."""
    scored = np.isfinite(arrays["others"]) & (labels != LEFT_OUT)
    made, true = arrays[by][scored] > 0, arrays[f"real {by}"] > 0
    rates: Iterable[tuple[str, np.ndarray]] = zip(categories, made.T, strict=True)
    real = {
        name: float(true[scored & (labels == label)].any(1).mean())
        for name, label in (("members", MEMBER), ("non_members", NON_MEMBER))
        if (scored & (labels == label)).any()
    }
    return {
        "generated": share_interval(int(made.any(1).sum()), len(made)),
        "categories": {category: int(hits.sum()) for category, hits in rates if hits.any()},
        "real": real,
    }
