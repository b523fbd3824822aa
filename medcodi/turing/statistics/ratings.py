"""Ratings of real and generated items: distributions, differences, rank tests, a linear mixed model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from medcodi.errors import MissingExtraError
from medcodi.turing.statistics.detection import auc_statistic, mean_statistic
from medcodi.turing.statistics.intervals import NEW_READERS, Estimate, t_interval, t_survival
from medcodi.turing.statistics.resampling import Cases, ReaderStatistic, Resampled, jackknife


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Every reader's ratings of real items and of one other arm."""

    readers: Sequence[str]  # [R]
    values: np.ndarray  # float [R, I], NaN where not answered
    other: np.ndarray  # bool [I], True for the arm compared with real items
    case: np.ndarray  # str [I], case of each item
    cases: Cases

    @property
    def num(self) -> int:
        """Number of ratings."""
        return int(np.isfinite(self.values).sum())

    def paired_cases(self) -> list[str]:
        """Cases that have items in both arms."""
        return sorted(set(self.case[self.other]) & set(self.case[~self.other]))

    @property
    def is_paired(self) -> bool:
        """Whether the design is paired: at least four of five cases are in both arms."""
        return len(self.paired_cases()) >= 0.8 * len(set(self.case)) > 0


def difference_statistic(ratings: Ratings) -> ReaderStatistic:
    """Each reader's mean rating of the other arm minus that of real items."""
    other, real = mean_statistic(ratings.values, ratings.other), mean_statistic(ratings.values, ~ratings.other)
    return lambda weights: other(weights) - real(weights)


def difference(ratings: Ratings) -> Resampled:
    """The difference in mean rating, other arm minus real."""
    return jackknife(difference_statistic(ratings), ratings.cases, num=ratings.num)


def superiority(ratings: Ratings) -> Resampled:
    """P(an item of the other arm is rated above a real one), ties half: the Mann-Whitney effect; 0.5 means no shift."""
    return jackknife(auc_statistic(ratings.values, ratings.other), ratings.cases, num=ratings.num)


def reader_rank_test(ratings: Ratings, reader: int) -> tuple[str, float]:
    """One reader's test: Wilcoxon's signed ranks in a paired design, else Mann-Whitney. Name and p-value."""
    return rank_test(ratings.values[reader], ratings)


def pooled_rank_test(ratings: Ratings) -> tuple[str, float]:
    """The same test on each item's mean over readers, so that the cases, not the answers, are counted.

    Each reader's own mean is taken out first: who rates few items high or low cannot shift an arm.
    """
    centred = ratings.values - np.nanmean(ratings.values, axis=1, keepdims=True)
    known = np.isfinite(centred)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(known, centred, 0.0).sum(0) / known.sum(0)
    return rank_test(np.round(means, 9), ratings)


def rank_test(values: np.ndarray, ratings: Ratings) -> tuple[str, float]:
    """Wilcoxon's signed-rank test over cases in both arms of a paired design, else the Mann-Whitney test; values float ``[I]``.

    Returns:
        Name of the test and two-sided p-value; NaN where there is nothing to compare.
    """
    known = np.isfinite(values)
    if ratings.is_paired:
        first, second = _by_case(values, ratings, ratings.other), _by_case(values, ratings, ~ratings.other)
        gap = np.round(np.asarray([first[c] - second[c] for c in ratings.paired_cases()]), 9)
        gap = gap[np.isfinite(gap)]
        if not gap.any():
            return "Wilcoxon signed-rank", 1.0 if gap.size else float("nan")
        return "Wilcoxon signed-rank", float(np.asarray(stats.wilcoxon(gap, method="asymptotic"))[1])
    other, real = values[known & ratings.other], values[known & ~ratings.other]
    if not (len(other) and len(real)):
        return "Mann-Whitney", float("nan")
    return "Mann-Whitney", float(stats.mannwhitneyu(other, real, method="asymptotic").pvalue)


def _by_case(values: np.ndarray, ratings: Ratings, arm: np.ndarray) -> dict[str, float]:
    return {c: float(np.mean(values[arm & (ratings.case == c)])) for c in ratings.paired_cases()}


def distribution(values: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """How often each rating was given: int ``[highest - lowest + 1]``."""
    known = values[np.isfinite(values)].round().astype(int)
    return np.bincount(known - lowest, minlength=highest - lowest + 1)


# ---- mixed model ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class MixedModel:
    """Result of ``rating ~ arm + (1 | case) + (1 | reader) + (1 | reader:arm)`` by restricted maximum likelihood."""

    effect: Estimate  # other arm minus real, in rating units; t interval, new readers
    p: float  # two-sided p-value of no effect, by the same t
    intercept: float  # mean rating of real items
    components: dict[str, float]  # variances: "case", "reader", "reader_arm", "residual"
    converged: bool  # whether the optimiser converged; the report says so

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "effect": self.effect.to_dict(),
            "p": self.p if np.isfinite(self.p) else None,
            "intercept": self.intercept,
            "components": self.components,
            "converged": self.converged,
        }


def fit_mixed(ratings: Ratings, *, level: float = 0.95) -> MixedModel | None:
    """Fit the model; None for one reader, or ratings that are all equal.

    The interval is Student's, not statsmodels' normal one: with three readers the reader-by-arm variance rests on two degrees of
    freedom. The variance of the effect is split by component, and ``1 / df = Σ share_k / df_k``, with ``r - 1`` for reader by arm and
    the number of cases less the arms for the rest.
    """
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams, VCSpec
    except ImportError:
        raise MissingExtraError("statsmodels", extra="turing", needed_for="the mixed model") from None
    # One row per rating, one indicator matrix per random effect.
    reader, item = np.nonzero(np.isfinite(ratings.values))
    y = ratings.values[reader, item]
    if len(set(reader)) < 2 or not np.ptp(y) > 0:
        return None
    arm = ratings.other[item].astype(float)
    designs = {
        "case": _indicator(ratings.cases.unit[item]),
        "reader": _indicator(reader),
        "reader_arm": _indicator(2 * reader + arm.astype(int)),
    }
    x = np.column_stack([np.ones(len(y)), arm])
    spec = VCSpec(
        list(designs),
        [[[f"{n}{i}" for i in range(z.shape[1])]] for n, z in designs.items()],
        [[z] for z in designs.values()],
    )
    # Fit from a start by moments; a second optimiser where the first fails.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # boundary estimates are expected; `converged` is reported
        model = MixedLM(y, x, groups=np.ones(len(y)), exog_vc=spec)
        start = MixedLMParams.from_components(fe_params=np.zeros(2), vcomp=_moments(ratings))  # pyright: ignore[reportArgumentType]
        fit = model.fit(reml=True, start_params=start, method=["lbfgs"], pgtol=1e-5)
        if not fit.converged:
            fit = model.fit(reml=True, method=["lbfgs", "powell"])
    # Effect and t interval from the variance components.
    components = dict(zip(designs, (max(float(v), 0.0) for v in fit.vcomp), strict=True))
    components["residual"] = float(fit.scale)
    value, variance, df = _effect(x, y, designs, components, len(set(reader)), ratings.cases.num_units)
    low, high = t_interval(value, variance, df, level=level)
    se = float(np.sqrt(variance))
    return MixedModel(
        effect=Estimate(
            value=value,
            low=low,
            high=high,
            se=se,
            df=df,
            level=level,
            population=NEW_READERS,
            method="REML (statsmodels MixedLM), t with degrees of freedom by component",
            num=len(y),
        ),
        p=2 * t_survival(abs(value) / se, df) if se > 0 else float("nan"),
        intercept=float(fit.fe_params[0]),
        components=components,
        converged=bool(fit.converged),
    )


def _moments(ratings: Ratings) -> np.ndarray:
    """Start of the optimiser: variances of case, reader and reader by arm relative to the residual's, by moments."""
    values, other = ratings.values, ratings.other
    means = np.stack(
        [np.nanmean(values[:, arm], axis=1) if arm.any() else np.zeros(len(values)) for arm in (~other, other)]
    )
    means = np.where(np.isfinite(means), means, np.nanmean(values))
    centred = values - means[other.astype(int)].T
    known = np.isfinite(centred)
    filled = np.where(known, centred, 0.0)
    # Case: mean product of two readers' residuals of one item.
    shared, together = filled @ filled.T, known.astype(float) @ known.T.astype(float)
    off = ~np.eye(len(values), dtype=bool)
    total = max(float(np.trace(shared) / max(np.trace(together) - 2 * len(values), 1)), 1e-6)
    case = float(np.clip(shared[off].sum() / max(together[off].sum(), 1.0), 0.05 * total, 0.9 * total))
    residual = total - case
    # Reader by arm, and reader: spread of the readers' means, less the noise of the mean.
    per_arm = residual * sum(1 / max(arm.sum(), 1) for arm in (~other, other))
    reader_arm = max((float((means[1] - means[0]).var(ddof=1)) - per_arm) / 2, 0.01 * residual)
    reader = max(float(means.mean(0).var(ddof=1)) - reader_arm / 2 - per_arm / 4, 0.01 * residual)
    return np.asarray([case, reader, reader_arm]) / residual


def _indicator(labels: np.ndarray) -> np.ndarray:
    names, index = np.unique(labels, return_inverse=True)
    return np.eye(len(names))[index]


def _effect(
    x: np.ndarray,
    y: np.ndarray,
    designs: dict[str, np.ndarray],
    components: dict[str, float],
    num_readers: int,
    num_units: int,
) -> tuple[float, float, float]:
    """The arm's generalised least-squares coefficient, its variance, and degrees of freedom by component."""
    covariance = components["residual"] * np.eye(len(y))
    for name, z in designs.items():
        covariance += components[name] * (z @ z.T)
    solved = np.linalg.solve(covariance, x)
    weights = solved @ np.linalg.inv(x.T @ solved)[:, 1]  # the coefficient is weights · y
    variance = float(weights @ covariance @ weights)
    # Share of the variance that rests on the few degrees of freedom of the readers.
    by_readers = components["reader_arm"] * float(((designs["reader_arm"].T @ weights) ** 2).sum())
    share = by_readers / variance if variance > 0 else 0.0
    df = 1 / (share / (num_readers - 1) + (1 - share) / max(num_units - 2, 1))
    return float(weights @ y), variance, df
