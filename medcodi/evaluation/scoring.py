"""Scores of one direction: generated against true, beside the ceiling (real targets) and the floor (shuffled prompts).

**The floor.** A generation depends on its prompts and on its own seed, and seeds are drawn without looking at studies. So the pairs
(generated from the prompts of j, truth of i), i and j of different patients, follow the law of generating with shuffled prompts and
scoring against the study that was asked for. The floor scores the *same* generations against truth moved by derangements between
patients (``held_out.derangements``), which needs no second generation and leaves the model's marginal behaviour as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medcodi.evaluation.classifier import SIDED_LABELS
from medcodi.evaluation.held_out import HeldOut, Reading, Value, derangements, read_values
from medcodi.metrics.bootstrap import Interval, Statistic, bootstrap_interval, paired_difference, resampling_weights
from medcodi.metrics.findings import Confusion, finding_scores, sides_of
from medcodi.metrics.frechet import Moments, frechet_distance
from medcodi.metrics.text import TextScorer
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Direction, Finding

NUM_DERANGEMENTS, NUM_HALVES, FRECHET_RESAMPLES = 16, 10, 200


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How sure the figures are to be, and which findings count.

    Attributes:
        bootstrap_samples: Resamples of each interval.
        min_positives: A finding counts where at least so many of the scored studies truly have it.
        seed: Of resamples and derangements.
    """

    bootstrap_samples: int = 1000
    min_positives: int = 5
    seed: int = 0


@dataclass
class TargetScores:
    """Scores of one target of a direction, and what the direction's primary metric is made of."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    model: Confusion | None = None
    floor: Confusion | None = None
    ceiling: Confusion | None = None


def record(
    value: Interval | float | None, *, ceiling: float | None = None, floor: Interval | float | None = None, **more: Any
) -> dict[str, Any]:
    """One figure as it stands in ``results.json``: value, low, high, ceiling, floor; None where there is none."""

    def plain(number: float | None) -> float | None:
        return None if number is None or np.isnan(number) else float(number)

    spread = value if isinstance(value, Interval) else Interval(np.nan if value is None else value, np.nan, np.nan)
    return {
        **spread.to_dict(),
        "ceiling": plain(ceiling),
        "floor": plain(floor.value if isinstance(floor, Interval) else floor),
        **more,
    }


def _value(statistic: Statistic, num: int) -> float:
    return float(statistic(np.ones((1, num)))[0])


def counted_findings(truth: np.ndarray, readable: np.ndarray, min_positives: int) -> list[int]:
    """Columns of CheXpert's labels that count: truly present in enough studies, and readable in this modality."""
    positives, negatives = (truth == 1).sum(0), (truth == 0).sum(0)
    return [k for k in range(truth.shape[1]) if positives[k] >= min_positives and negatives[k] >= 1 and readable[k]]


def score_findings(
    scores: TargetScores,
    reading: Reading,
    real: Reading,
    truth: np.ndarray,
    moved: Sequence[np.ndarray],
    weights: np.ndarray,
    options: ScoringOptions,
) -> None:
    """Finding F1, macro and micro, and per finding."""
    readable = np.asarray(~np.isnan(reading.labels).any(0) & ~np.isnan(real.labels).any(0))
    columns = counted_findings(truth, readable, options.min_positives)
    if not columns:
        scores.notes.append(
            f"no finding counts: none is readable here and truly present in at least {options.min_positives} of {len(truth)} studies"
        )
        return
    names = [CHEXPERT_LABELS[k] for k in columns]
    generated, true = reading.labels[:, columns], truth[:, columns]
    scores.model, scores.ceiling = Confusion.of(true, generated), Confusion.of(true, real.labels[:, columns])
    scores.floor = Confusion.mean([Confusion.of(true[permutation], generated) for permutation in moved])
    num = len(true)
    for name in ("macro_f1", "micro_f1"):
        model, floor, ceiling = (getattr(one, name)() for one in (scores.model, scores.floor, scores.ceiling))
        scores.metrics[f"finding_{name}"] = record(
            bootstrap_interval(model, weights), ceiling=_value(ceiling, num), floor=_value(floor, num)
        )
    per_model, per_ceiling = (
        finding_scores(true, generated, names).per_finding,
        finding_scores(true, real.labels[:, columns], names).per_finding,
    )
    floor_f1 = scores.floor.f1(np.ones((1, num)))[0]
    for k, name in enumerate(names):
        scores.findings[name] = {
            **_plain(per_model[name]),
            "ceiling_f1": _plain(per_ceiling[name])["f1"],
            "floor_f1": float(np.nan_to_num(floor_f1[k])),
        }


def _plain(figures: dict[str, float]) -> dict[str, Any]:
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


def score_sides(
    scores: TargetScores,
    reading: Reading,
    real: Reading,
    true: Sequence[Sequence[Finding]],
    moved: Sequence[np.ndarray],
    weights: np.ndarray,
) -> None:
    """How often the side is right where a finding with a side is both true and read."""

    def pairs(read: Sequence[Sequence[Finding]], told: Sequence[Sequence[Finding]]) -> tuple[np.ndarray, np.ndarray]:
        right, both = np.zeros(len(read)), np.zeros(len(read))
        for row, (one, other) in enumerate(zip(read, told, strict=True)):
            for label in SIDED_LABELS:
                seen, expected = sides_of(one, label), sides_of(other, label)
                if seen and expected:
                    both[row] += 1
                    right[row] += seen == expected
        return right, both

    def rate(counts: tuple[np.ndarray, np.ndarray]) -> Statistic:
        def statistic(weights: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return weights @ counts[0] / (weights @ counts[1])

        return statistic

    model, ceiling = pairs(reading.sides, true), pairs(real.sides, true)
    if not model[1].sum():
        scores.notes.append("sides are not judged: no finding with a side is both true and read here")
        return
    shuffled = [pairs(reading.sides, [true[row] for row in permutation]) for permutation in moved]
    floor = np.mean([one[0] for one in shuffled], 0), np.mean([one[1] for one in shuffled], 0)
    num = weights.shape[1]
    scores.metrics["side_accuracy"] = record(
        bootstrap_interval(rate(model), weights),
        ceiling=_value(rate(ceiling), num),
        floor=_value(rate(floor), num),
        pairs=int(model[1].sum()),
    )


def score_frechet(
    scores: TargetScores,
    generated: np.ndarray,
    real: np.ndarray,
    patients: Sequence[str],
    weights: np.ndarray,
    seed: int,
) -> None:
    """Fréchet distance of all generated to all real images; its ceiling between halves of the real ones, and the same halves generated."""
    num, dim = generated.shape
    if num < dim:
        scores.notes.append(
            f"the Fréchet distance of {dim}-dimensional features needs at least {dim} studies; there are {num}"
        )
        return
    moments = Moments.of(real)

    def statistic(rows: np.ndarray) -> np.ndarray:
        return np.array(
            [frechet_distance(Moments.of(generated, one), Moments.of(real, one), strict=False) for one in rows]
        )

    spread = bootstrap_interval(statistic, weights[:FRECHET_RESAMPLES], centred=True)
    value = Interval(frechet_distance(Moments.of(generated), moments), spread.low, spread.high)
    halves: dict[str, float | None] = {"ceiling": None, "halves": None}
    if num >= 2 * dim:
        between = [_halves(generated, real, patients, seed, split) for split in range(NUM_HALVES)]
        halves["ceiling"], halves["halves"] = (float(np.mean([one[k] for one in between])) for k in range(2))
    else:
        scores.notes.append(
            f"the ceiling of the Fréchet distance compares halves of the real studies and needs at least {2 * dim}; there are {num}"
        )
    scores.metrics["frechet"] = record(value, ceiling=halves["ceiling"], halves=halves["halves"], num_features=dim)


def _halves(
    generated: np.ndarray, real: np.ndarray, patients: Sequence[str], seed: int, split: int
) -> tuple[float, float]:
    """Distances real half - other real half, and generated half - other real half, patients kept together."""
    names, cluster = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    first = (numpy_generator("halves", seed, split).permutation(len(names)) < len(names) // 2)[cluster]
    other = Moments.of(real[~first])
    return frechet_distance(Moments.of(real[first]), other, strict=False), frechet_distance(
        Moments.of(generated[first]), other, strict=False
    )


def score_texts(
    scores: TargetScores,
    generated: Sequence[str],
    references: Sequence[str],
    permutation: np.ndarray,
    weights: np.ndarray,
    scorer: TextScorer,
) -> None:
    """BLEU, ROUGE-L, METEOR, CIDEr, and the same against shuffled references. They have no ceiling: each study has one true report."""
    told, floor = (
        scorer.score(generated, references),
        scorer.score(generated, [str(references[row]) for row in permutation]),
    )
    for name, value in told.corpus.items():
        if value is None:
            scores.metrics[name] = record(None)
            continue
        scores.metrics[name] = record(bootstrap_interval(told.statistics[name], weights), floor=floor.corpus[name])
    scores.notes.extend(told.notes)
    empty = sum(not text.strip() for text in generated)
    if empty:
        scores.notes.append(
            f"{empty} of {len(generated)} generated reports are empty; they score 0 and count as without findings"
        )


def score_direction(
    direction: Direction,
    generated: dict[str, list[Value]],
    held: HeldOut,
    rows: Sequence[int],
    scorer: TextScorer,
    options: ScoringOptions,
) -> dict[str, Any]:
    """All scores of one direction.

    Args:
        direction: Prompts and targets.
        generated: Target -> one value for each of ``rows``.
        held: The real studies.
        rows: Which of them were prompts.
        scorer: Of texts.
        options: Intervals and counting.

    Returns:
        ``targets`` (target -> metrics, findings, notes) and ``primary``: macro finding F1 averaged over the targets, for the model, with
        shuffled prompts and on the real targets; the paired difference model - shuffled; ``beats_shuffled``: whether its interval lies
        above 0 (None without prompts: there is nothing to shuffle).
    """
    patients = [held.patients[row] for row in rows]
    weights = resampling_weights(patients, options.bootstrap_samples, options.seed)
    moved = derangements(patients, NUM_DERANGEMENTS, options.seed)
    truth, true = held.truth[list(rows)], [held.findings[row] for row in rows]
    targets: dict[str, TargetScores] = {}
    for target in direction.targets:
        scores = targets[target] = TargetScores()
        real, reading = held.reading(target, rows), read_values(held.classifier, target, generated[target])
        score_findings(scores, reading, real, truth, moved, weights, options)
        score_sides(scores, reading, real, true, moved, weights)
        if MODALITIES[target].kind == "text":
            score_texts(
                scores,
                [str(text) for text in generated[target]],
                [str(text) for text in held.values(target, rows)],
                moved[0],
                weights,
                scorer,
            )
        elif reading.features is not None and real.features is not None:
            score_frechet(scores, reading.features, real.features, patients, weights, options.seed)
            flat = sum(float(np.ptp(image)) < 0.02 for image in generated[target] if isinstance(image, np.ndarray))
            if flat:
                scores.notes.append(
                    f"{flat} of {len(rows)} generated images are constant; they were scored as they are"
                )
    return {
        "num_studies": len(rows),
        "targets": {
            name: {"metrics": scores.metrics, "findings": scores.findings, "notes": scores.notes}
            for name, scores in targets.items()
        },
        "primary": primary_metric(direction, list(targets.values()), weights),
    }


def _mean_of(statistics: Sequence[Statistic]) -> Statistic:
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def primary_metric(direction: Direction, targets: Sequence[TargetScores], weights: np.ndarray) -> dict[str, Any]:
    """Macro finding F1, averaged over the targets that have one, against its floor and ceiling (see :func:`score_direction`)."""
    judged = [
        scores
        for scores in targets
        if scores.model is not None and scores.floor is not None and scores.ceiling is not None
    ]
    if not judged:
        return {
            "name": "finding_macro_f1",
            "model": None,
            "shuffled": None,
            "ceiling": None,
            "difference": None,
            "fraction_of_ceiling": None,
            "beats_shuffled": None,
        }
    model, floor, ceiling = (
        _mean_of([getattr(scores, name).macro_f1() for scores in judged]) for name in ("model", "floor", "ceiling")
    )
    difference = paired_difference(model, floor, weights)
    value, best = _value(model, weights.shape[1]), _value(ceiling, weights.shape[1])
    return {
        "name": "finding_macro_f1",
        "model": bootstrap_interval(model, weights).to_dict(),
        "shuffled": bootstrap_interval(floor, weights).to_dict(),
        "ceiling": best,
        "difference": difference.to_dict(),
        "fraction_of_ceiling": value / best if best else None,
        "beats_shuffled": bool(difference.low > 0) if direction.prompts else None,
    }
