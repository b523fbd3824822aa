"""How figures are called and shown: one row for each metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shown:
    """One metric on a page.

    Attributes:
        title: In words.
        group: Of the tables: findings, images, reports, coherence.
        better: "up", "down"; "" where neither is better.
    """

    title: str
    group: str
    better: str = "up"


METRICS: dict[str, Shown] = {
    "finding_macro_f1": Shown("finding F1, macro", "findings"),
    "finding_micro_f1": Shown("finding F1, micro", "findings"),
    "finding_auroc": Shown("finding AUROC", "findings"),
    "finding_auprc": Shown("finding AUPRC", "findings"),
    "side_accuracy": Shown("side right", "findings"),
    "frechet": Shown("Fréchet distance", "images", "down"),
    "kernel": Shown("kernel distance", "images", "down"),
    "precision": Shown("precision", "images"),
    "recall": Shown("recall", "images"),
    "density": Shown("density", "images"),
    "coverage": Shown("coverage", "images"),
    "ms_ssim": Shown("MS-SSIM between patients", "images", ""),
    "ssim": Shown("SSIM to the truth", "images"),
    "psnr": Shown("PSNR to the truth, dB", "images"),
    "bleu_1": Shown("BLEU-1", "reports"),
    "bleu_2": Shown("BLEU-2", "reports"),
    "bleu_3": Shown("BLEU-3", "reports"),
    "bleu_4": Shown("BLEU-4", "reports"),
    "rouge_l": Shown("ROUGE-L", "reports"),
    "meteor": Shown("METEOR", "reports"),
    "cider": Shown("CIDEr", "reports"),
    "finding_kappa": Shown("findings agree, κ", "coherence"),
    "finding_f1": Shown("findings agree, F1", "coherence"),
    "retrieval_median_rank": Shown("median rank of the partner", "coherence", "down"),
    "retrieval_recall_at_1": Shown("partner ranked first", "coherence"),
    "retrieval_recall_at_5": Shown("partner in the first 5", "coherence"),
    "retrieval_recall_at_10": Shown("partner in the first 10", "coherence"),
    "latent_similarity": Shown("cosine in the latent space", "coherence"),
    "geometry_correlation": Shown("bodies agree, correlation", "coherence"),
    "radgraph_simple": Shown("RadGraph F1, simple", "reports"),
    "radgraph_partial": Shown("RadGraph F1, partial", "reports"),
    "radgraph_complete": Shown("RadGraph F1, complete", "reports"),
    "ratescore": Shown("RaTEScore", "reports"),
}
_ARROWS = {"up": " ↑", "down": " ↓", "": ""}


def shown(metric: str) -> Shown:
    """A metric's row; a name with an extractor such as ``frechet/xrv`` has that of its first part."""
    return METRICS.get(metric.partition("/")[0], Shown(metric, "other", ""))


def title(metric: str) -> str:
    """``Fréchet distance (xrv) ↓``."""
    name, _, extractor = metric.partition("/")
    row = shown(name)
    return row.title + (f" ({extractor})" if extractor else "") + _ARROWS[row.better]


def number(value: float | None) -> str:
    """Three digits after the point, fewer where there are more before it; a dash where there is none."""
    if value is None:
        return "–"
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def percent(value: float | None, unit: str = " %") -> str:
    """A share: ``93 %``; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.0f}{unit}"


def interval(figure: dict[str, Any] | None) -> str:
    """``[0.690, 0.731]``, or nothing."""
    if not figure or figure.get("low") is None:
        return ""
    return f"[{number(figure['low'])}, {number(figure['high'])}]"


def pretty(direction: str) -> str:
    """A direction for people: ``frontal + report → lateral``."""
    prompts, _, targets = direction.partition("->")
    return f"{prompts.replace('+', ' + ') or 'nothing'} → {targets.replace('+', ' + ')}"


LEAST_SPAN = (
    0.02  # between floor and ceiling: less says nothing, and noise may put the one on the other side of the other
)


def share(figure: dict[str, Any], better: str = "up") -> float | None:
    """Where a figure stands from its floor (0) to its ceiling (1); None where one is missing, or the ceiling is hardly better."""
    value, ceiling, floor = (figure.get(key) for key in ("value", "ceiling", "floor"))
    if value is None or ceiling is None or floor is None or better not in ("up", "down"):
        return None
    if (ceiling - floor) * (1 if better == "up" else -1) < LEAST_SPAN:
        return None
    return (value - floor) / (ceiling - floor)
