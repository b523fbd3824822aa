"""Scores of one direction: generated against true, beside the ceiling (real targets) and the floor (shuffled prompts).

**The floor.** A generation depends on its prompts and on its own seed, and seeds are drawn without looking at studies. So the pairs
(generated from the prompts of j, truth of i), i and j of different patients, follow the law of generating with shuffled prompts and
scoring against the study that was asked for. The floor scores the *same* generations against truth moved by derangements between
patients (``derangements.py``), which needs no second generation and leaves the model's marginal behaviour as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medcodi.evaluation.held_out import HeldOut, Value
from medcodi.evaluation.materials import Counts, Material
from medcodi.evaluation.measures import GROUPS
from medcodi.evaluation.measures.case import Case, Contents, Studies
from medcodi.evaluation.measures.coherence import score_coherence
from medcodi.evaluation.measures.findings import counted_findings
from medcodi.evaluation.measures.images import flag_images
from medcodi.evaluation.measures.texts import flag_texts
from medcodi.evaluation.reading import ContentReading, Readers
from medcodi.evaluation.scores import ScoringOptions, TargetScores, plain, record, value_of
from medcodi.metrics.bootstrap import bootstrap_interval, paired_difference
from medcodi.metrics.findings import Confusion
from medcodi.metrics.text import TextScorer
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS, Direction

__all__ = ["DirectionScores", "ScoringOptions", "counted_findings", "record", "score_direction"]

PRIMARY = "finding_macro_f1"


@dataclass
class DirectionScores:
    """All scores of one direction of one system, and what they are made of.

    Attributes:
        direction: Prompts and targets.
        rows: Studies that it was scored on.
        targets: Target -> scores.
        coherence: Pair of targets -> scores.
        primary: Macro finding F1 over the targets, against floor and ceiling.
    """

    direction: Direction
    rows: list[int]
    targets: dict[str, TargetScores]
    coherence: dict[str, TargetScores] = field(default_factory=dict)
    primary: dict[str, Any] = field(default_factory=dict)

    @property
    def primary_material(self) -> Counts | None:
        """What the primary figure is made of; None without findings."""
        return _joined([scores.materials.get(PRIMARY) for scores in self.targets.values()])

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``results.json``."""
        return {
            "prompts": list(self.direction.prompts),
            "num_studies": len(self.rows),
            "primary": self.primary,
            "targets": {name: scores.to_dict() for name, scores in self.targets.items()},
            "coherence": {name: scores.to_dict() for name, scores in self.coherence.items()},
        }


def score_direction(
    direction: Direction,
    generated: Mapping[str, ContentReading],
    real: Mapping[str, ContentReading],
    held: HeldOut,
    rows: Sequence[int],
    readers: Readers,
    scorer: TextScorer | None,
    options: ScoringOptions,
    values: Mapping[str, Contents] | None = None,
) -> DirectionScores:
    """All scores of one direction.

    Args:
        direction: Prompts and targets.
        generated: Target -> what was read from the generated contents of ``rows``.
        real: Target -> what was read from the true ones; and prompt -> the same, as far as prompts were read.
        held: The real studies.
        rows: Which of them.
        readers: Who read.
        scorer: Of texts.
        options: Intervals, counting, groups of metrics.
        values: Target -> generated contents by row, for metrics of pairs of images; None: these are left out.
    """
    studies = Studies(held, list(rows), options)
    cases = [
        Case(direction, target, studies, generated[target], real[target], readers, scorer,
             (values or {}).get(target, _no_values), _real_values(held, target))
        for target in direction.targets
    ]  # fmt: skip
    for case in cases:
        kind = MODALITIES[case.target].kind
        for name in options.metrics:
            group = GROUPS[name]
            if group.score is None or kind not in group.kinds or (name == "diversity" and not values):
                continue
            if name == "text" and scorer is None:
                continue
            group.score(case)
        (flag_images if kind == "image" else flag_texts)(case)
    found = DirectionScores(direction, list(rows), {case.target: case.scores for case in cases})
    if "coherence" in options.metrics and len(cases) > 1:
        found.coherence = score_coherence(cases)
    prompts = {name: real[name] for name in direction.prompts if name in real}
    found.primary = primary_metric(found, studies, readers.legible(prompts))
    return found


def _no_values(rows: Sequence[int]) -> list[Value]:
    raise AssertionError("metrics of pairs of images are left out without the images")


def _real_values(held: HeldOut, target: str) -> Contents:
    return lambda rows: held.values(target, rows)


def _joined(parts: Sequence[Material | None]) -> Counts | None:
    """Several targets' confusions as one figure: the mean of theirs."""
    counts = [part for part in parts if isinstance(part, Counts)]
    confusions: tuple[Confusion, ...] = tuple(one for part in counts for one in part.confusions)
    names = tuple(one for part in counts for one in part.names)
    return Counts(confusions, "macro_f1", names) if confusions else None


def primary_metric(scores: DirectionScores, studies: Studies, legible: np.ndarray | None = None) -> dict[str, Any]:
    """Macro finding F1, averaged over the targets that have one: the model, prompts shuffled, the real targets.

    ``difference`` is the paired one of model and shuffled; ``beats_shuffled`` whether its interval lies above 0 (None without prompts:
    there is nothing to shuffle). ``prompt_reader`` is the same figure of what readers see in the prompts themselves.

    Args:
        scores: Of the targets.
        studies: They were scored on.
        legible: What is read from the prompts, ``[N, 14]`` of 0, 1; None: nothing.
    """
    targets = list(scores.targets.values())
    model, floor, ceiling = (
        _joined([getattr(one, kind).get(PRIMARY) for one in targets]) for kind in ("materials", "floors", "ceilings")
    )
    names = ("model", "shuffled", "ceiling", "difference", "fraction_of_ceiling", "fraction_low", "fraction_high",
             "beats_shuffled", "prompt_reader")  # fmt: skip
    if model is None or floor is None or ceiling is None:
        return {"name": PRIMARY, **dict.fromkeys(names)}
    weights = studies.weights
    told, best = model.statistic(), ceiling.statistic()

    def fraction(rows: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return told(rows) / best(rows)

    reached = bootstrap_interval(fraction, weights).to_dict()
    difference = paired_difference(told, floor.statistic(), weights)
    figures = (
        bootstrap_interval(told, weights).to_dict(),
        bootstrap_interval(floor.statistic(), weights).to_dict(),
        value_of(best, weights.shape[1]),
        difference.to_dict(),
        *(plain(reached[key]) for key in ("value", "low", "high")),
        bool(difference.low > 0) if scores.direction.prompts else None,
        _of_prompts(targets, studies, legible),
    )
    return {"name": PRIMARY, **dict(zip(names, figures, strict=True))}


def _of_prompts(
    targets: Sequence[TargetScores], studies: Studies, legible: np.ndarray | None
) -> dict[str, float | None] | None:
    """The primary figure of a reader who is shown the prompts and nothing else: what a generator could know."""
    if legible is None:
        return None
    readable = np.asarray(~np.isnan(legible).any(0))
    counted = [[k for k in one.counted if readable[k]] for one in targets if PRIMARY in one.materials]
    counted = [columns for columns in counted if columns]  # what no prompt's reader knows says nothing of the prompts
    if not counted:
        return None
    told = tuple(Confusion.of(studies.truth[:, columns], legible[:, columns]) for columns in counted)
    names = tuple(tuple(CHEXPERT_LABELS[k] for k in columns) for columns in counted)
    return bootstrap_interval(Counts(told, "macro_f1", names).statistic(), studies.weights).to_dict()
