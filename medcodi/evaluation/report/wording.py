"""How figures are written on the page and in the terminal: titles, numbers, intervals, directions, and the headline of a direction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from medcodi.evaluation.scoring.metrics import metric_row

NO_FINDING = "No Finding"
Results = dict[str, Any]  # the content of results.json
# Distance of floor and ceiling: less says nothing, and noise may exchange them.
LEAST_SPAN = 0.02
VERDICT_SHADE = {"better": 1.0, "alike": None, "worse": 0.0}
_ARROWS = {"up": " ↑", "down": " ↓", "": ""}


def directions(results: Results) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(system, direction, scores), systems within directions."""
    names = dict.fromkeys(name for system in results["systems"].values() for name in system["directions"])
    for name in names:
        for system, stored in results["systems"].items():
            if name in stored["directions"]:
                yield system, name, stored["directions"][name]


def order_of(results: Results, system: str, direction: str) -> str:
    """The order in which a model generated several targets; empty if there is none, or none is known."""
    return results["systems"][system].get("orders", {}).get(direction, "")


def several(results: Results) -> bool:
    """Whether there are several systems, so that each row names its own."""
    return len(results["systems"]) > 1


def title(metric: str) -> str:
    """Title of a metric: ``Fréchet distance (xrv) ↓``."""
    name, _, extractor = metric.partition("/")
    row = metric_row(name)
    return row.title + (f" ({extractor})" if extractor else "") + _ARROWS[row.better]


def number(value: float | None) -> str:
    """Three digits after the point, fewer if there are more before it; a dash for None."""
    if value is None:
        return "–"
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return number(value) if value is None else ("+" if value >= 0 else "−") + number(abs(value))


def percent(value: float | None, unit: str = " %") -> str:
    """A share: ``93 %``; a dash for None."""
    return "–" if value is None else f"{100 * value:.0f}{unit}"


def interval(figure: dict[str, Any] | None) -> str:
    """``[0.690, 0.731]``; empty if unknown."""
    if not figure or figure.get("low") is None:
        return ""
    return f"[{number(figure['low'])}, {number(figure['high'])}]"


def pretty(direction: str) -> str:
    """A direction for people: ``frontal + report → lateral``."""
    prompts, _, targets = direction.partition("->")
    return f"{prompts.replace('+', ' + ') or 'nothing'} → {targets.replace('+', ' + ')}"


def share(figure: dict[str, Any], better: str = "up") -> float | None:
    """Position of a figure between its floor (0) and its ceiling (1); None if one is missing, or the ceiling is hardly better."""
    value, ceiling, floor = (figure.get(key) for key in ("value", "ceiling", "floor"))
    if value is None or ceiling is None or floor is None or better not in ("up", "down"):
        return None
    if (ceiling - floor) * (1 if better == "up" else -1) < LEAST_SPAN:
        return None
    return (value - floor) / (ceiling - floor)


# ---- the headline of a direction: how near it comes to its ceiling, and the figures beside it ------------------------
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
