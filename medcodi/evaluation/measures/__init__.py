"""The groups of metrics, one row each: which kind of target they score, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medcodi.evaluation.measures.case import Case
from medcodi.evaluation.measures.distributions import score_frechet, score_kernel, score_prdc
from medcodi.evaluation.measures.findings import score_findings
from medcodi.evaluation.measures.images import score_diversity, score_similarity
from medcodi.evaluation.measures.texts import score_texts
from medcodi.modality import Kind

__all__ = ["GROUPS", "Case", "Group"]


@dataclass(frozen=True)
class Group:
    """Some metrics that are computed together.

    Attributes:
        title: For pages.
        kinds: Of targets that they score; none: they score pairs of targets (``coherence``).
        score: Adds the figures to ``case.scores``.
    """

    title: str
    kinds: tuple[Kind, ...]
    score: Callable[[Case], None] | None = None


GROUPS: dict[str, Group] = {
    "findings": Group("findings", ("image", "text"), score_findings),
    "frechet": Group("Fréchet distance", ("image",), score_frechet),
    "kernel": Group("kernel distance", ("image",), score_kernel),
    "prdc": Group("precision, recall, density, coverage", ("image",), score_prdc),
    "diversity": Group("diversity", ("image",), score_diversity),
    "similarity": Group("likeness to the true image", ("image",), score_similarity),
    "text": Group("overlap of texts", ("text",), score_texts),
    "coherence": Group("coherence of jointly generated targets", ()),
}
