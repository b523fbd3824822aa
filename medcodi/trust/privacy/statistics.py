"""Statistics of an audit: members against non-members, patient by patient. A patient with several studies counts once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import beta, binomtest, mannwhitneyu, norm, rankdata, ttest_ind

from medcodi.randomness import Key, numpy_generator
from medcodi.turing.lint.separation import auc_of

MEMBER, NON_MEMBER, LEFT_OUT = 1, 0, -1  # labels of studies
LEAST_PATIENTS = 10  # of each group, for a figure
LEAST_ALARMS = 10  # false alarms that a rate of true alarms stands on: 1 % needs 1,000 non-members, 0.1 % needs 10,000
FALSE_ALARMS = (0.1, 0.01, 0.001)
SHOWN_DELTA = 1e-5  # of the epsilon that alarms show


def by_patient(values: np.ndarray, labels: np.ndarray, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the known values of each patient, ``[P]``, and whether it is a member, bool ``[P]``; labels are of studies ``[N]``."""
    known = (labels != LEFT_OUT) & np.isfinite(values)
    names, cluster = np.unique(np.asarray(patients, dtype=object)[known].astype(str), return_inverse=True)
    sums = np.bincount(cluster, weights=values[known], minlength=len(names))
    members = np.bincount(cluster, weights=labels[known], minlength=len(names))
    counts = np.maximum(np.bincount(cluster, minlength=len(names)), 1)
    return sums / counts, members > 0


def ranked(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Ranks in (0, 1) among the studies that count, whatever their label, so that scores of several attacks can be added; NaN stays."""
    known = (labels != LEFT_OUT) & np.isfinite(values)
    result = np.full(len(values), np.nan)
    result[known] = rankdata(values[known]) / (known.sum() + 1)
    return result


def enough(members: np.ndarray) -> bool:
    """Whether both groups have the patients that a figure needs; ``members`` is bool ``[P]``."""
    return min(int(members.sum()), int((~members).sum())) >= LEAST_PATIENTS


def separation(values: np.ndarray, labels: np.ndarray, patients: Sequence[str]) -> dict[str, Any] | None:
    """Area under the ROC curve of members above non-members, over patients; None with too few of them.

    Returns:
        ``value`` with a 95 % interval (Newcombe's score interval, which keeps its width at 1), a one-sided ``p_value`` (Mann and
        Whitney), and the numbers of patients.
    """
    scores, members = by_patient(values, labels, patients)
    if not enough(members):
        return None
    auc = auc_of(scores, members)
    constant = len(np.unique(scores)) < 2
    p = 1.0 if constant else float(mannwhitneyu(scores[members], scores[~members], alternative="greater").pvalue)
    return {"value": auc.value, "low": auc.low, "high": auc.high, "p_value": p, **_counts(members)}


def set_test(values: np.ndarray, labels: np.ndarray, patients: Sequence[str]) -> dict[str, Any] | None:
    """The set-level test: do members as a set score higher (Welch's t, one-sided)? A set betrays what no single study does."""
    scores, members = by_patient(values, labels, patients)
    if not enough(members) or np.ptp(scores) == 0:
        return None
    result: Any = ttest_ind(scores[members], scores[~members], equal_var=False, alternative="greater")
    spread = np.sqrt((scores[members].var(ddof=1) + scores[~members].var(ddof=1)) / 2)
    effect = float((scores[members].mean() - scores[~members].mean()) / max(spread, 1e-12))
    return {"effect": effect, "p_value": float(result.pvalue), **_counts(members)}


def true_alarms(
    values: np.ndarray, labels: np.ndarray, patients: Sequence[str], rate: float, resamples: int, *keys: Key
) -> dict[str, Any] | None:
    """Share of members above the threshold that at most ``rate`` of the non-members pass, with a bootstrap interval over patients.

    None where fewer than ``LEAST_ALARMS`` non-members would be above it: the threshold would rest on a handful of patients.
    """
    scores, members = by_patient(values, labels, patients)
    inside, outside = scores[members], scores[~members]
    if not enough(members) or rate * len(outside) < LEAST_ALARMS - 1e-9:
        return None

    def share(own: np.ndarray, others: np.ndarray) -> np.ndarray:
        # The threshold is the first score that is not among the alarms; [R, m], [R, n] -> [R].
        place = others.shape[1] - 1 - int(rate * others.shape[1] + 1e-9)
        return (own > np.partition(others, place, axis=1)[:, place : place + 1]).mean(axis=1)

    rng = numpy_generator("audit alarms", *keys)
    drawn = [
        share(rng.choice(inside, (size, len(inside))), rng.choice(outside, (size, len(outside))))
        for size in _blocks(resamples)
    ]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return {"value": float(share(inside[None], outside[None])[0]), "low": float(low), "high": float(high)}


def epsilon_shown(main: Mapping[str, Any]) -> float | None:
    """The least epsilon, at delta = ``SHOWN_DELTA``, that the main attack's true alarms are compatible with; None without any.

    An (epsilon, delta)-private training lets no attack exceed TPR = e^epsilon FPR + delta (Kairouz et al., 2015, arXiv 1311.0776). A
    promise below the bound is broken, or the run that made it has a fault; a bound below a promise proves nothing.

    Args:
        main: Figures of the main attack; TPR is taken at its lower bound, FPR at its upper one.
    """
    shares = {float(rate): share for rate, share in main["true_alarms"].items() if share is not None}
    if not shares:
        return None
    bounds = [0.0]
    for rate, share in shares.items():
        # The rate beyond an order statistic of n non-members has a beta distribution; corrected for the number of rates.
        num = main["auroc"]["non_members"]
        count = int(rate * num + 1e-9)
        highest = beta.ppf(1 - 0.025 / len(shares), count + 1, num - count)
        if share["low"] > SHOWN_DELTA:
            bounds.append(math.log((share["low"] - SHOWN_DELTA) / highest))
    return max(bounds)


def excess(
    values: np.ndarray, labels: np.ndarray, patients: Sequence[str], resamples: int, *keys: Key
) -> dict[str, Any] | None:
    """Mean over members less mean over non-members, with a bootstrap interval over patients, and a one-sided p; None with too few."""
    scores, members = by_patient(values, labels, patients)
    if not enough(members):
        return None
    inside, outside = scores[members], scores[~members]
    rng = numpy_generator("audit excess", *keys)
    drawn = [
        rng.choice(inside, (size, len(inside))).mean(1) - rng.choice(outside, (size, len(outside))).mean(1)
        for size in _blocks(resamples)
    ]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    p = 1.0 if np.ptp(scores) == 0 else float(mannwhitneyu(inside, outside, alternative="greater").pvalue)
    return {
        "value": float(inside.mean() - outside.mean()),
        "low": float(low),
        "high": float(high),
        "members_mean": float(inside.mean()),
        "non_members_mean": float(outside.mean()),
        "p_value": p,
        **_counts(members),
    }


def nearest_excess(nearest: np.ndarray, labels: np.ndarray, patients: Sequence[str]) -> dict[str, Any] | None:
    """Share of generations whose nearest real study (of another patient) is a member's, less the share that chance gives.

    Without memorisation it makes no difference which patients are called members, so the p-value is that of exchanging the labels of
    patients (its normal approximation), and the interval has the same spread.

    Args:
        nearest: int ``[N]``, the row of the nearest labelled study of another patient; -1: none.
        labels: int ``[N]``.
        patients: Of each study.
    """
    chosen = nearest[(labels != LEFT_OUT) & (nearest >= 0)]
    usable = labels != LEFT_OUT
    names, cluster = np.unique(np.asarray(patients, dtype=object)[usable].astype(str), return_inverse=True)
    patient_of = np.full(len(labels), -1)
    patient_of[usable] = cluster
    member = np.zeros(len(names), bool)
    member[cluster[labels[usable] == MEMBER]] = True
    if not enough(member) or not len(chosen):
        return None
    # How often each patient is the nearest; members are a sample of them without replacement.
    counts = np.bincount(patient_of[chosen], minlength=len(names)).astype(float)
    total, num, num_members = counts.sum(), len(names), int(member.sum())
    expected = num_members / num
    variance = num_members * (num - num_members) / num / (num - 1) * ((counts - counts.mean()) ** 2).sum()
    spread = float(np.sqrt(variance)) / total
    value = float(counts[member].sum() / total - expected)
    p = float(norm.sf(value / spread)) if spread > 0 else 1.0
    width = 1.959964 * spread
    bounds = {"low": value - width, "high": value + width}
    return {"value": value, **bounds, "chance": expected, "p_value": p, **_counts(member)}


def share_interval(hits: int, total: int) -> dict[str, Any]:
    """A share with its exact 95 % interval (Clopper and Pearson)."""
    bounds = binomtest(hits, total).proportion_ci(method="exact")
    return {"value": hits / total, "low": float(bounds.low), "high": float(bounds.high), "hits": hits, "total": total}


def _counts(members: np.ndarray) -> dict[str, int]:
    return {"members": int(members.sum()), "non_members": int((~members).sum())}


def _blocks(num: int, size: int = 100) -> list[int]:
    """Resamples in blocks, so that memory does not grow with their number."""
    return [min(size, num - start) for start in range(0, num, size)]
