"""Figures of a headline: how near a direction comes to its ceiling, where it may be stated, and the figures that stand beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from medcodi.evaluation.report.wording import number

NO_FINDING = "No Finding"


def counted_findings(scores: dict[str, Any]) -> dict[str, list[str]]:
    """Target -> the findings that its F1 is the mean of; targets without any are left out."""
    counted = {
        target: [label for label in own.get("findings") or {} if "/" not in label]
        for target, own in scores["targets"].items()
    }
    return {target: labels for target, labels in counted.items() if labels}


def share_of_ceiling(scores: dict[str, Any]) -> tuple[float | None, str]:
    """How near the macro F1 comes to its ceiling; None, with the reason, where such a share would flatter.

    A generator that writes the same for everyone reaches a high share of the ceiling when *No Finding* alone counts, or when most studies
    are alike: a share is stated only of a direction that beats its shuffled prompts, on findings that are findings.
    """
    primary, counted = scores["primary"], counted_findings(scores)
    if not scores["prompts"] or primary["fraction_of_ceiling"] is None:
        return None, ""
    if counted and {label for labels in counted.values() for label in labels} == {NO_FINDING}:
        return None, f"only {NO_FINDING} counts"
    if not primary["beats_shuffled"]:
        return None, "not above its floor"
    return primary["fraction_of_ceiling"], ""


def micro_f1(scores: dict[str, Any]) -> float | None:
    """Micro F1, averaged over the targets, as the macro F1 is."""
    figures = [own["metrics"].get("finding_micro_f1") for own in scores["targets"].values()]
    values = [figure["value"] for figure in figures if figure and figure["value"] is not None]
    return float(np.mean(values)) if values else None


def beside_macro(scores: dict[str, Any]) -> str:
    """The line below a macro F1: the number of findings (of each target), and the micro F1."""
    counted = list(counted_findings(scores).values())
    if not counted:
        return ""
    numbers = " · ".join(str(len(labels)) for labels in counted)
    findings = "1 finding" if numbers == "1" else f"{numbers} findings"
    if all(labels == [NO_FINDING] for labels in counted):
        findings = f"only {NO_FINDING}"
    micro = micro_f1(scores)
    return findings if micro is None else f"{findings}\nmicro {number(micro)}"
