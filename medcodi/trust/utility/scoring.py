"""Figures of a utility study: every arm with its interval over patients and seeds, comparisons, subgroups, exchange rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcodi.metrics.bootstrap import Interval, Statistic, known_mean, resampling_weights, weighted_mean
from medcodi.metrics.findings import (
    Confusion,
    auprc_statistic,
    auroc_statistic,
    brier_statistic,
    calibration_error_statistic,
    reliability,
)
from medcodi.metrics.paired import holm
from medcodi.randomness import numpy_generator
from medcodi.trust.utility.config import ArmConfig, UtilityConfig

# Measure of findings -> statistic of (truth, probabilities, threshold), each of one finding.
FINDING_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray, float], Statistic]] = {
    "auroc": lambda truth, scores, _: auroc_statistic(truth, scores),
    "auprc": lambda truth, scores, _: auprc_statistic(truth, scores),
    "f1": lambda truth, scores, threshold: _f1(truth, scores >= threshold),
    "ece": lambda truth, scores, _: calibration_error_statistic(truth, scores),
    "brier": lambda truth, scores, _: brier_statistic(truth, scores),
}
# Measure of retrieval -> statistic of ranks.
RANK_MEASURES: dict[str, Callable[[np.ndarray], Statistic]] = {
    "reciprocal_rank": lambda ranks: weighted_mean(1 / ranks),
    **{f"recall_at_{k}": lambda ranks, k=k: weighted_mean((ranks <= k).astype(np.float64)) for k in (1, 5, 10)},
}
LEAST_GROUP = 20  # studies of a subgroup


def main_measure(task: str) -> str:
    """The measure that arms are compared by, and exchange rates are in."""
    return "reciprocal_rank" if task == "retrieval" else "auroc"


def _f1(truth: np.ndarray, predicted: np.ndarray) -> Statistic:
    confusion = Confusion.of(truth[:, None], predicted[:, None].astype(np.float64))
    return lambda weights: confusion.f1(weights)[:, 0]


@dataclass(frozen=True)
class Predicted:
    """The predictions of all classifiers for one test set."""

    patients: tuple[str, ...]
    groups: tuple[str, ...]
    truth: np.ndarray  # [N, K]
    # arm -> [seeds, sampling seeds, N, K]: probabilities, or ranks with K = 1; an arm that no sampling seed changes has one of them
    predictions: Mapping[str, np.ndarray]
    thresholds: Mapping[str, np.ndarray]  # arm -> [seeds, sampling seeds, K]


class Scorer:
    """Figures of one test set, all on the same resamples of patients, seeds and sampling seeds."""

    def __init__(self, config: UtilityConfig, findings: Sequence[str], tested: Predicted) -> None:
        self.config, self.findings, self.tested = config, tuple(findings), tested
        resamples = config.bootstrap_samples
        # Row 0 of every array of weights is the plain value.
        drawn = resampling_weights(tested.patients, resamples, "utility")
        self.weights = np.vstack([np.ones((1, len(tested.patients))), drawn])  # [1 + R, N]
        self._seeds = _draws(config.seeds, resamples, "utility seeds")  # [1 + R, seeds]
        self._samplings = _draws(config.sampling_seeds, resamples, "utility sampling seeds")
        self._cache: dict[tuple[str, str, str], np.ndarray] = {}

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures of the task, the main one first."""
        return tuple(RANK_MEASURES if self.config.task == "retrieval" else FINDING_MEASURES)

    def values(self, arm: str, measure: str, group: str = "") -> np.ndarray:
        """A measure of an arm: per finding, then their mean over the findings that have both classes, ``[K + 1, 1 + R]``.

        ``group``: of the studies of a subgroup alone.
        """
        if (arm, measure, group) not in self._cache:
            rows = np.array([not group or name == group for name in self.tested.groups])
            truth, weights = self.tested.truth[rows], self.weights[:, rows]
            runs = self.tested.predictions[arm][:, :, rows]  # [S, T, N, K]
            # Weights of the runs: how often each seed, and each sampling seed, is drawn.
            draws = self._seeds[:, :, None] * (self._samplings[:, None] if runs.shape[1] > 1 else 1.0)  # [1 + R, S, T]
            total = np.zeros((self._columns + 1, len(weights)))
            for seed, sampling in np.ndindex(runs.shape[:2]):
                own = self._of_run(
                    measure, truth, runs[seed, sampling], self.tested.thresholds[arm][seed, sampling], weights
                )
                total += np.vstack([own, known_mean(own, 0)]) * draws[:, seed, sampling]
            self._cache[arm, measure, group] = total / draws.sum((1, 2))
        return self._cache[arm, measure, group]

    @property
    def _columns(self) -> int:
        return 1 if self.config.task == "retrieval" else len(self.findings)

    def _of_run(
        self, measure: str, truth: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """One run: ``[K, 1 + R]``."""
        if self.config.task == "retrieval":
            return RANK_MEASURES[measure](scores[:, 0])(weights)[None]
        statistic = FINDING_MEASURES[measure]
        return np.stack([statistic(truth[:, k], scores[:, k], thresholds[k])(weights) for k in range(truth.shape[1])])

    # ---- figures -----------------------------------------------------------------------------------------------------
    def arm(self, name: str) -> dict[str, Any]:
        """Figures of an arm: macro and per finding, the worst subgroup, calibration."""
        measured = {measure: self.values(name, measure) for measure in self.measures}
        figures: dict[str, Any] = {"macro": {measure: interval(values[-1]) for measure, values in measured.items()}}
        if self.config.task != "retrieval":
            figures["findings"] = {
                finding: {measure: interval(values[k]) for measure, values in measured.items()}
                for k, finding in enumerate(self.findings)
            }
            figures["calibration"] = self._calibration(name)
        figures["worst_subgroup"] = self._worst(name)
        return figures

    def _calibration(self, arm: str) -> list[dict[str, float]]:
        """Reliability over all findings and runs."""
        runs = self.tested.predictions[arm]  # [S, T, N, K]
        truth = np.broadcast_to(self.tested.truth, runs.shape)
        return reliability(truth.ravel(), runs.ravel())

    def _worst(self, arm: str) -> dict[str, Any] | None:
        """The subgroup with the lowest main measure, of those with enough studies and cases; None without any."""
        measure, groups = main_measure(self.config.task), {}
        for group in sorted(set(self.tested.groups) - {""}):
            rows = np.array([name == group for name in self.tested.groups])
            is_ranked = self.config.task == "retrieval"
            cases = rows.sum() if is_ranked else (self.tested.truth[rows] == 1).sum(0).max(initial=0)
            patients = {patient for patient, inside in zip(self.tested.patients, rows, strict=True) if inside}
            if rows.sum() >= LEAST_GROUP and cases >= self.config.min_positives and len(patients) > 1:
                groups[group] = self.values(arm, measure, group)[-1]
        known = {group: values for group, values in groups.items() if not np.isnan(values[0])}
        if not known:
            return None
        worst = min(known, key=lambda group: known[group][0])
        return {"group": worst, "of": len(known), **interval(known[worst])}

    def comparisons(self) -> list[dict[str, Any]]:
        """Every arm that names another: the paired difference of the main measure, and its p-value, adjusted over all of them."""
        measure, rows = main_measure(self.config.task), []
        for name, arm in self.config.arms.items():
            if arm.against:
                difference = self.values(name, measure)[-1] - self.values(arm.against, measure)[-1]
                rows.append(
                    {"arm": name, "against": arm.against, **interval(difference), "p_value": p_value(difference)}
                )
        for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
            row["p_holm"] = None if np.isnan(adjusted) else adjusted
            row["p_value"] = None if np.isnan(row["p_value"]) else row["p_value"]
        return rows

    def exchange(self, counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
        """Arm -> its exchange rate, of those whose base has oracle arms; ``counts``: arm -> ``num_real``, ``num_added``."""
        measure, rates = main_measure(self.config.task), {}
        for name, arm in self.config.arms.items():
            if arm.add in ("synthetic", "duplicates") and (curve := self._curve(arm, counts)) is not None:
                rates[name] = exchange_rate(curve, counts[name]["num_added"], self.values(name, measure)[-1])
        return rates

    def _curve(self, arm: ArmConfig, counts: Mapping[str, Mapping[str, int]]) -> OracleCurve | None:
        """The oracle's curve of an arm's base; without real studies, that of all plain arms, from chance."""
        measure, points = main_measure(self.config.task), {}
        if arm.real == 0:
            if self.config.task == "retrieval":
                return None
            points[0] = np.full(len(self.weights), 0.5)
            plain = {n: a for n, a in self.config.arms.items() if a.add == "nothing" and not a.cut and is_plain(a)}
            points |= {counts[n]["num_real"]: self.values(n, measure)[-1] for n in plain}
            num_base = 0
        else:
            same = {
                n: a
                for n, a in self.config.arms.items()
                if a.base == arm.base and a.add in ("nothing", "oracle") and is_plain(a)
            }
            points = {counts[n]["num_added"]: self.values(n, measure)[-1] for n in same}
            num_base = next((counts[n]["num_real"] for n, a in same.items() if a.add == "nothing"), 0)
        if 0 not in points or len(points) < 2:
            return None
        numbers = sorted(points)
        return OracleCurve(num_base, np.array(numbers), np.stack([points[number] for number in numbers]))


def is_plain(arm: ArmConfig) -> bool:
    """Whether an arm is trained as the arms of a curve are: no other augmentation, loss, labels or order of studies."""
    return arm.augmentation == "standard" and not (arm.loss_weights or arm.shuffle_labels or arm.pretrain)


def _draws(num: int, resamples: int, key: str) -> np.ndarray:
    """How often each of ``num`` seeds is drawn, ``[1 + R, num]``; the first row is of ones. A single seed is not resampled."""
    counts = np.ones((1 + resamples, num))
    if num > 1:
        counts[1:] = numpy_generator(key).multinomial(num, np.full(num, 1 / num), size=resamples)
    return counts


def interval(values: np.ndarray) -> dict[str, float | None]:
    """A value with its 95 % interval, from ``[1 + R]``; JSON-ready."""
    resampled = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not resampled.size:
        return Interval(float(values[0]), float("nan"), float("nan")).to_dict()
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high)).to_dict()


def p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of the bootstrap: twice the share of resampled differences on the other side of 0, itself counted."""
    resampled = differences[1:][~np.isnan(differences[1:])]
    if np.isnan(differences[0]) or not resampled.size:
        return float("nan")
    sides = (1 + (resampled <= 0).sum(), 1 + (resampled >= 0).sum())
    return float(min(1.0, 2 * min(sides) / (1 + len(resampled))))


# ---- the exchange rate -----------------------------------------------------------------------------------------------
FEW = 0.95  # share of resamples that must give a rate


@dataclass(frozen=True)
class OracleCurve:
    """Performance with 0, a, b ... new real studies, on all studies and on every resample."""

    num_base: int  # real studies at 0
    num_new: np.ndarray  # [P], rising, the first is 0
    values: np.ndarray  # [P, 1 + R]; the first column is of all studies

    def equivalent(self, values: np.ndarray) -> np.ndarray:
        """New real studies that reach a performance: ``[1 + R]`` -> ``[1 + R]``; NaN where the curve does not rise.

        The curve is made monotone, and is linear in the logarithm of the number of real studies. A performance below its start is
        worth a negative number: that of the real studies which could have been left out. One above its end counts as the end.
        """
        totals = np.log(self.num_base + self.num_new + (self.num_base == 0))
        result = np.full(len(values), np.nan)
        for column, value in enumerate(values):
            curve = monotone(self.values[:, column])
            rise = curve[-1] - curve[0]
            if np.isnan(value) or not rise > 1e-12:
                continue
            if value < curve[0]:
                total = totals[0] + (value - curve[0]) * (totals[-1] - totals[0]) / rise
            else:
                # Points of one height are one point, the middle of them.
                heights, inverse = np.unique(curve, return_inverse=True)
                places = np.bincount(inverse, weights=totals) / np.bincount(inverse)
                places[0] = totals[0]
                total = np.interp(value, heights, places)
            result[column] = np.exp(total) - self.num_base - (self.num_base == 0)
        return result


def monotone(values: np.ndarray) -> np.ndarray:
    """The nearest sequence that does not fall, by pooling adjacent violators: ``[P]`` -> ``[P]``; NaN stays NaN."""
    blocks: list[list[float]] = []  # mean, length
    for value in values:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.concatenate([np.full(int(length), mean) for mean, length in blocks])


def exchange_rate(curve: OracleCurve, num_added: int, values: np.ndarray) -> dict[str, Any]:
    """The rate of an arm with its interval, JSON-ready.

    ``curve`` is that of the oracle arms of the same base; ``values`` are the performance of the arm, ``[1 + R]``.

    Returns:
        ``value``, ``low``, ``high`` (null where the curve does not rise in more than 5 % of the resamples), ``num_added``,
        ``beyond`` (whether the performance is above the curve's end, so that the rate is at least the value) and ``resolved``, the
        share of the resamples that gave a rate.
    """
    rates = curve.equivalent(values) / num_added
    resolved = float((~np.isnan(rates[1:])).mean()) if len(rates) > 1 else 0.0
    interval = Interval(float(rates[0]), float("nan"), float("nan"))
    if resolved >= FEW and not np.isnan(rates[0]):
        low, high = np.nanquantile(rates[1:], [0.025, 0.975])
        interval = Interval(float(rates[0]), float(low), float(high))
    beyond = bool(values[0] >= monotone(curve.values[:, 0])[-1])
    return {**interval.to_dict(), "num_added": num_added, "beyond": beyond, "resolved": resolved}
