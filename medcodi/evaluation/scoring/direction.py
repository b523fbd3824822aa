"""Scores of one direction: generated contents against the truth, beside the ceiling (real targets) and the floor (shuffled prompts)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from medcodi.evaluation.annotations import AnnotationTable
from medcodi.evaluation.scoring.case import Case, ScoredStudies
from medcodi.evaluation.scoring.coherence import score_coherence
from medcodi.evaluation.scoring.figures import TargetScores, plain, value_of
from medcodi.evaluation.scoring.findings import score_findings, score_subgroups
from medcodi.evaluation.scoring.metrics import METRIC_GROUPS, PRIMARY
from medcodi.evaluation.scoring.records import flag_records, score_obedience, score_records
from medcodi.evaluation.scoring.similarity import (
    flag_images,
    flag_texts,
    score_diversity,
    score_frechet,
    score_kernel,
    score_prdc,
    score_similarity,
    score_texts,
)
from medcodi.evaluation.scoring.statistics import F1Statistic, MeanStatistic, StudyStatistic
from medcodi.metrics.bootstrap import bootstrap_interval, known_mean, paired_difference
from medcodi.metrics.findings import Confusion
from medcodi.metrics.text import TextScorer
from medcodi.modality import MODALITIES, Kind
from medcodi.study import CHEXPERT_LABELS, Direction


@dataclass
class DirectionScores:
    """All scores of one direction of one system."""

    direction: Direction  # prompts and targets
    rows: list[int]  # the studies that it is scored on
    targets: dict[str, TargetScores]  # target -> scores
    coherence: dict[str, TargetScores] = field(default_factory=dict)  # pair of targets -> scores
    # macro finding F1 over the targets, against floor and ceiling
    primary: dict[str, Any] = field(default_factory=dict)

    @property
    def primary_statistic(self) -> F1Statistic | None:
        """The statistic of the primary figure; None without findings."""
        return _mean_over_targets([scores.statistics.get(PRIMARY) for scores in self.targets.values()])

    def to_dict(self) -> dict[str, Any]:
        """As stored in ``results.json``."""
        return {
            "prompts": list(self.direction.prompts),
            "num_studies": len(self.rows),
            "primary": self.primary,
            "targets": {name: scores.to_dict() for name, scores in self.targets.items()},
            "coherence": {name: scores.to_dict() for name, scores in self.coherence.items()},
        }


def score_direction(
    direction: Direction,
    studies: ScoredStudies,
    generated: Mapping[str, AnnotationTable],
    real: Mapping[str, AnnotationTable],
    scorer: TextScorer | None = None,
    geometry: Mapping[str, Sequence[int]] | None = None,
) -> DirectionScores:
    """All scores of one direction.

    Args:
        direction: Prompts and targets.
        studies: The studies that it is scored on.
        generated: Target -> annotations of its generated contents.
        real: Target -> annotations of the true ones; and prompt -> the same, if prompts were annotated.
        scorer: Of texts; None leaves overlap of texts out.
        geometry: Pair of views -> columns of their geometry that count.
    """
    # Each target by itself: the groups of metrics, then what is odd.
    cases = []
    prompts = {name: real[name].at(studies.rows) for name in direction.prompts if name in real}
    for target in direction.targets:
        tables = generated[target].at(studies.rows), real[target].at(studies.rows)
        case = Case(target, studies, *tables, scorer, prompted_by=direction.prompts, prompts=prompts)
        kind = MODALITIES[target].kind
        for group in studies.config.metrics:
            if group in SCORERS and kind in METRIC_GROUPS[group] and (group != "text" or scorer is not None):
                SCORERS[group](case)
        if "subgroups" in studies.config.metrics and kind in METRIC_GROUPS["subgroups"]:
            score_subgroups(case)
        FLAGS[kind](case)
        cases.append(case)
    scores = DirectionScores(direction, studies.rows, {case.target: case.scores for case in cases})
    # Pairs of targets in which findings are annotated.
    paired = [case for case in cases if "labels" in case.generated.arrays]
    if "coherence" in studies.config.metrics and len(paired) > 1:
        scores.coherence = score_coherence(paired, geometry or {})
    # The figure that decides, and what the prompts show.
    scores.primary = primary_figure(scores, studies, legible_findings(list(prompts.values())))
    return scores


def legible_findings(prompts: Sequence[AnnotationTable]) -> np.ndarray | None:
    """Findings that the prompts of each study show, taken together: float64 ``[N, 14]`` of 0, 1; None if no prompt is annotated.

    The mean of the prompts' probabilities is compared with the mean of their thresholds; a report says 0 or 1, at 0.5. Every finding that
    has a threshold counts, however well it is recognised; NaN if none has.
    """
    margins = [table.arrays["margin"] for table in prompts if "margin" in table.arrays]  # [N, 14] each
    if not margins:
        return None
    margin = known_mean(np.stack(margins), 0)
    return np.where(np.isnan(margin), np.nan, margin >= 0)


def _mean_over_targets(parts: Sequence[StudyStatistic | None]) -> F1Statistic | None:
    """Several targets' confusions as one figure: the mean of theirs."""
    known = [part for part in parts if isinstance(part, F1Statistic)]
    confusions = tuple(confusion for part in known for confusion in part.confusions)
    names = tuple(findings for part in known for findings in part.names)
    return F1Statistic(confusions, "macro_f1", names) if confusions else None


def primary_figure(scores: DirectionScores, studies: ScoredStudies, legible: np.ndarray | None) -> dict[str, Any]:
    """Macro finding F1, averaged over the targets that have one: of the model, its floor (shuffled prompts), its ceiling (real targets).

    ``difference`` is model minus floor, paired; ``beats_shuffled`` says whether its interval is above 0 (None without prompts:
    there is nothing to shuffle). ``prompt_reader`` is the same figure of what annotators see in the prompts themselves.

    Args:
        scores: Of the targets.
        studies: That they are scored on.
        legible: What the prompts show, ``[N, 14]`` of 0, 1; None: unknown.
    """
    targets = list(scores.targets.values())
    model, floor, ceiling = (
        _mean_over_targets([getattr(target, kind).get(PRIMARY) for target in targets])
        for kind in ("statistics", "floors", "ceilings")
    )
    keys = ("model", "shuffled", "ceiling", "difference", "fraction_of_ceiling", "fraction_low", "fraction_high",
            "beats_shuffled", "prompt_reader")  # fmt: skip
    if model is None or floor is None or ceiling is None:
        return {"name": PRIMARY, **dict.fromkeys(keys)}
    weights, value, best = studies.weights, model.statistic(), ceiling.statistic()

    # Model and ceiling are resampled together.
    def fraction(resamples: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return value(resamples) / best(resamples)

    fractions = bootstrap_interval(fraction, weights).to_dict()
    difference = paired_difference(value, floor.statistic(), weights)
    figures = (
        bootstrap_interval(value, weights).to_dict(),
        bootstrap_interval(floor.statistic(), weights).to_dict(),
        value_of(best, weights.shape[1]),
        difference.to_dict(),
        *(plain(fractions[key]) for key in ("value", "low", "high")),
        bool(difference.low > 0) if scores.direction.prompts else None,
        _figure_of_prompts(targets, studies, legible),
    )
    return {"name": PRIMARY, **dict(zip(keys, figures, strict=True))}


def _figure_of_prompts(
    targets: Sequence[TargetScores], studies: ScoredStudies, legible: np.ndarray | None
) -> dict[str, float | None] | None:
    """The primary figure of annotators that see the prompts and nothing else: what a generator could know."""
    if legible is None:
        return None
    # Findings that no prompt's annotator knows say nothing of the prompts.
    known = np.asarray(~np.isnan(legible).any(0))
    counted = [[k for k in target.counted if known[k]] for target in targets if PRIMARY in target.statistics]
    counted = [columns for columns in counted if columns]
    if not counted:
        return None
    confusions = tuple(Confusion.of(studies.truth[:, columns], legible[:, columns]) for columns in counted)
    names = tuple(tuple(CHEXPERT_LABELS[k] for k in columns) for columns in counted)
    return bootstrap_interval(F1Statistic(confusions, "macro_f1", names).statistic(), studies.weights).to_dict()


# ---- groups of metrics that are scored only where they are named -----------------------------------------------------
@lru_cache(maxsize=1)
def urgency() -> np.ndarray:
    """Weight of each of the 14 labels by how urgent it is: float64 ``[14]``; of ``urgency.yaml``, which is openly ours."""
    table = yaml.safe_load(resources.files("medcodi.evaluation.scoring").joinpath("urgency.yaml").read_text("utf-8"))
    return np.array([table["weights"][table["findings"][label]] for label in CHEXPERT_LABELS], np.float64)


def score_severity(case: Case) -> None:
    """Micro F1 in which a finding that is right, missed or invented counts as often as it is urgent; over all labels that are annotated."""
    truth, name = case.studies.truth, "finding_severity_f1"
    labels, real = case.generated.arrays["labels"], case.real.arrays["labels"]  # [N, 14]
    annotated = ~np.isnan(labels).any(0) & ~np.isnan(real).any(0) & (urgency() > 0)
    columns = np.flatnonzero(annotated).tolist()
    if not (truth[:, columns] == 1).any():
        case.scores.leave_out(name, "no finding with a weight is read here and truly present", 1, 0)
        return
    titles, weights = (tuple(f"{case.target}: {CHEXPERT_LABELS[k]}" for k in columns),), urgency()[columns]

    def of(own: np.ndarray, annotations: np.ndarray) -> Confusion:
        return Confusion.of(own[:, columns], annotations[:, columns]).weighted(weights)

    floor = Confusion.mean([of(truth[moved], labels) for moved in case.studies.moved])
    value, best, worst = (
        F1Statistic((confusion,), "micro_f1", titles) for confusion in (of(truth, labels), of(truth, real), floor)
    )
    case.scores.add(name, value, case.studies.weights, ceiling=best, floor=worst)


def score_alignment(case: Case) -> None:
    """Mean cosine of a generated image and the report that prompted it, in the shared latent space; ceiling: the real image."""
    reports = [
        table for name, table in case.prompts.items() if MODALITIES[name].kind == "text" and "latent" in table.arrays
    ]
    if not reports or "latent" not in case.generated.arrays:
        case.scores.leave_out("alignment", "no report prompts here, or no encoder embeds it")
        return
    prompt, made, real = reports[0].arrays["latent"], case.generated.arrays["latent"], case.real.arrays["latent"]
    # Latents are of length 1, [N, D]; the floor sets each image beside other patients' reports.
    floor = np.mean([(made * prompt[moved]).sum(1) for moved in case.studies.moved], 0)
    value, ceiling, floor = (MeanStatistic(row) for row in ((made * prompt).sum(1), (real * prompt).sum(1), floor))
    case.scores.add("alignment", value, case.studies.weights, ceiling=ceiling, floor=floor)


def score_by_finding(case: Case) -> None:
    """The distances that are chosen, among the studies that truly have a finding: generated against real ones of the same studies."""
    scorers = {"frechet": score_frechet, "kernel": score_kernel, "prdc": score_prdc}
    least = max(case.config.min_positives, case.config.neighbours + 1)
    for column, label in enumerate(CHEXPERT_LABELS):
        rows = np.flatnonzero(case.studies.truth[:, column] == 1)
        if not case.scores.enough(f"by finding: {label}", least, len(rows), "a set of studies with it"):
            continue
        # The same target of these studies alone.
        chosen = [case.studies.rows[row] for row in rows]
        studies = replace(case.studies, rows=chosen)
        own = Case(case.target, studies, case.generated.at(chosen), case.real.at(chosen))
        for group in case.config.metrics:
            if group in scorers:
                scorers[group](own)
        case.scores.by_finding[label] = {
            "studies": len(rows),
            "metrics": own.scores.metrics,
            "left_out": own.scores.left_out,
        }


# ---- the table of scorers --------------------------------------------------------------------------------------------
# Group of metrics -> the function that adds its figures to a case; "coherence" is of pairs, "subgroups" of what the others found.
SCORERS: dict[str, Callable[[Case], None]] = {
    "findings": score_findings,
    "frechet": score_frechet,
    "kernel": score_kernel,
    "prdc": score_prdc,
    "diversity": score_diversity,
    "similarity": score_similarity,
    "text": score_texts,
    "records": score_records,
    "obedience": score_obedience,
    "severity": score_severity,
    "alignment": score_alignment,
    "by_finding": score_by_finding,
}
FLAGS: dict[Kind, Callable[[Case], None]] = {"image": flag_images, "text": flag_texts, "table": flag_records}
