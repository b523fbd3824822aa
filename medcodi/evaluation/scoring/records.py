"""Records: each field of generated ones against the truth, and what films show of a record that prompted them (obedience).

A generated record is the mean of its draws: of a number their mean, of a category its share. The ceiling of a record is what the annotator
reads from the real films that prompted it; that of a film's obedience, what it reads from the real film. Floors are other patients' truth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medcodi.evaluation.annotations import AnnotationTable
from medcodi.evaluation.scoring.case import Case
from medcodi.evaluation.scoring.figures import flag, value_of
from medcodi.evaluation.scoring.similarity import repeated
from medcodi.evaluation.scoring.statistics import (
    AreaStatistic,
    MeanStatistic,
    NumberStatistic,
    RatioStatistic,
    StudyStatistic,
)
from medcodi.metrics.bootstrap import known_mean
from medcodi.metrics.fields import NUMBERS, inside_draws, spread_and_error
from medcodi.modality import MODALITIES
from medcodi.record import FieldConfig

LEAST_KNOWN = 8  # studies whose truth is known
Measure = Callable[[np.ndarray, np.ndarray], StudyStatistic]  # truth [N], values [N, C] -> a figure


# ---- records as targets ----------------------------------------------------------------------------------------------
def score_records(case: Case) -> None:
    """Every field of a generated record: errors and areas; of several draws, whether their spread is as wide as their error."""
    films = [table for name, table in case.prompts.items() if MODALITIES[name].kind == "image"]
    truths = case.studies.records(case.target)
    num_draws = case.generated.arrays["draws"].shape[1]
    for column, (name, field) in enumerate(case.studies.table.fields.items()):
        values = case.generated.values_of(name, field)
        if values is None or np.isnan(values).all():
            case.scores.leave_out(f"record/{name}", "no generated record has it")
            continue
        # The ceiling: the mean of what is read from the films, of a field that the annotator recognises in one of them.
        reads = [
            own for film in films if name in film.judged_fields and (own := film.values_of(name, field)) is not None
        ]
        best = np.mean(reads, axis=0) if reads else None
        if _score_field(case, "record", name, field, truths[:, column], values, best) and field.is_numeric:
            _score_spread(case, name, truths[:, column], case.generated, num_draws)


def _score_spread(case: Case, name: str, truth: np.ndarray, table: AnnotationTable, num_draws: int) -> None:
    """Whether the truth is one of the draws' kind: within them as often as it should be, and as far off as they are apart."""
    if num_draws < 2:
        reason = "the spread needs at least 2 draws of each study (record_draws), and directions of records alone have several"
        case.scores.leave_out(f"record_spread/{name}", reason, 2, num_draws)
        return
    draws = table.arrays["draws"][:, :, list(table.fields).index(name)]  # [N, S]
    inside = MeanStatistic(inside_draws(truth, draws))
    expected = (num_draws - 1) / (num_draws + 1)
    case.scores.add(f"record_coverage/{name}", inside, case.studies.weights, expected=expected, draws=num_draws)
    spread = RatioStatistic(*spread_and_error(truth, draws))
    case.scores.add(f"record_spread/{name}", spread, case.studies.weights, expected=1.0, draws=num_draws)


def flag_records(case: Case) -> None:
    """Equal records of different studies."""
    if entry := flag(repeated(case.generated.hashes), case.studies.ids):
        case.scores.flags["repeated"] = entry


# ---- obedience -------------------------------------------------------------------------------------------------------
def score_obedience(case: Case) -> None:
    """Compare what a generated film shows with the record that prompted it, as far as the annotator recognises it in real films."""
    prompts = [name for name in case.prompted_by if MODALITIES[name].kind == "table"]
    judged, fields = case.real.judged_fields, case.studies.table.fields
    for prompt in prompts:
        if not case.real.fields:
            reason = "the image annotator reads no field of a record (configs/eval/classifier-record.yaml trains one that does)"
            case.scores.leave_out("obedience", reason)
            continue
        truths = case.studies.records(prompt)
        if unread := [name for name in fields if name not in judged]:
            reason = f"not recognised in real films, or not read: {', '.join(unread)}"
            case.scores.leave_out("obedience", reason)
        for column, (name, field) in enumerate(fields.items()):
            values, best = case.generated.values_of(name, field), case.real.values_of(name, field)
            if name in judged and values is not None:
                _score_field(case, "obedience", name, field, truths[:, column], values, best)


# ---- one field -------------------------------------------------------------------------------------------------------
def _score_field(
    case: Case,
    group: str,
    name: str,
    field: FieldConfig,
    truth: np.ndarray,
    values: np.ndarray,
    best: np.ndarray | None,
) -> bool:
    """Add the figures of one field; whether there are enough studies for them.

    Args:
        case: Where they are added.
        group: ``record`` or ``obedience``: how their names begin.
        name: Of the field.
        field: The field.
        truth: ``[N]``, NaN where unknown.
        values: ``[N, C]``: the number, or a probability for each category.
        best: The same of the ceiling; None: there is none.
    """
    known = ~np.isnan(truth) & ~np.isnan(values).any(1)
    if not case.scores.enough(f"{group}/{name}", LEAST_KNOWN, int(known.sum()), "a field of records"):
        return False
    if not field.is_numeric:
        least = int(min((truth[known] == category).sum() for category in range(len(field.values))))
        positives = case.config.min_positives
        if not case.scores.enough(f"{group}_auroc/{name}", positives, least, f"each category of {name}"):
            return False
    truth = np.where(known, truth, np.nan)
    for measure, statistic in _measures(case.target, name, field).items():
        # The floor: the same values against the truth of other patients.
        shuffled = [statistic(truth[moved], values).statistic() for moved in case.studies.moved]
        floor = float(known_mean(np.array([value_of(figure, len(truth)) for figure in shuffled]), 0))
        case.scores.add(
            f"{group}_{measure}/{name}",
            statistic(truth, values),
            case.studies.weights,
            ceiling=None if best is None else statistic(truth, best),
            floor=floor,
            studies=int(known.sum()),
        )
    return True


def _measures(target: str, name: str, field: FieldConfig) -> dict[str, Measure]:
    """Measure -> its statistic: of numbers mean error, R², correlation; of categories accuracy and AUROC."""
    if field.is_numeric:
        measures: dict[str, Measure] = {"mae": lambda truth, values: MeanStatistic(np.abs(values[:, 0] - truth))}
        for measure in NUMBERS:
            measures[measure] = lambda truth, values, measure=measure: NumberStatistic(truth, values[:, 0], measure)
        return measures
    titles = tuple(f"{target}: {name} {value}" for value in field.values)

    def accuracy(truth: np.ndarray, values: np.ndarray) -> StudyStatistic:
        return MeanStatistic(np.where(np.isnan(truth), np.nan, values.argmax(1) == truth))

    def area(truth: np.ndarray, values: np.ndarray) -> StudyStatistic:
        # One category against the others, averaged over the categories.
        each = truth[:, None] == np.arange(len(field.values))
        return AreaStatistic(np.where(np.isnan(truth)[:, None], np.nan, each), values, "auroc", titles)

    return {"accuracy": accuracy, "auroc": area}
