"""Groups of metrics that are scored only where they are named: findings weighted by urgency, alignment with the prompt, distances by finding."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib import resources

import numpy as np
import yaml

from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.similarity import score_frechet, score_kernel, score_prdc
from medcodi.evaluation.scoring.statistics import F1Statistic, MeanStatistic
from medcodi.metrics.findings import Confusion
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS


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
