"""Resampling of cases, jointly for all readers; readers by Obuchowski and Rockette's variance.

A naive two-way bootstrap says little about new readers when there are three: drawing three of three with replacement gives (r-1)/r of
their variance, no t-like tails, and counts the noise of each answer several times. Here resampling the cases, jointly for every
reader, gives the covariances between readers; the differences between readers beyond that enter through their mean square, with its
few degrees of freedom (Obuchowski & Rockette 1995).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medcodi.errors import DataError
from medcodi.randomness import Key, numpy_generator
from medcodi.turing.statistics.intervals import IDENTITY, NEW_READERS, Estimate, Scale, share_interval, t_interval

MIN_READERS = 3  # for an interval that holds for new readers
ReaderStatistic = Callable[[np.ndarray], np.ndarray]  # item weights [B, I] -> one value for each reader [B, R]


@dataclass(frozen=True)
class Cases:
    """Units of resampling, and their strata."""

    unit: np.ndarray  # int [I], case (or patient) of each item; all items of a case are resampled together
    stratum: np.ndarray  # int [U], stratum of each case: the arms it has items in; the size of a stratum stays fixed

    @classmethod
    def of(cls, cases: Sequence[str], arms: Sequence[str]) -> Cases:
        """From the case and the arm of each item.

        Raises:
            DataError: If no stratum has two cases, which leaves no variance over cases.
        """
        names, unit = np.unique(np.asarray(cases, dtype=str), return_inverse=True)
        arms_of: list[set[str]] = [set() for _ in names]  # arms that each case has items in
        for u, arm in zip(unit, arms, strict=True):
            arms_of[u].add(str(arm))
        _, stratum = np.unique(
            np.asarray([",".join(sorted(names)) for names in arms_of], dtype=str), return_inverse=True
        )
        sizes = np.bincount(stratum)
        if not len(stratum) or sizes.max() < 2:
            raise DataError(
                f"answers about {len(stratum)} case(s)", expected="at least 2 cases in an arm", fix="read more items"
            )
        alone = sizes[stratum] < 2  # one case has no variance of its own: it joins the largest stratum
        _, stratum = np.unique(np.where(alone, sizes.argmax(), stratum), return_inverse=True)
        return cls(unit, stratum)

    @property
    def num_units(self) -> int:
        """Number of cases."""
        return len(self.stratum)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of cases of each stratum, int ``[H]``."""
        return np.bincount(self.stratum)

    @cached_property
    def deletions(self) -> np.ndarray:
        """Item weights ``[U, I]`` with one case left out at a time; the others of its stratum weigh more instead."""
        same = self.stratum[:, None] == self.stratum
        size = self.sizes[self.stratum]
        weights = np.where(same, np.where(size > 1, size / np.maximum(size - 1, 1), 1.0)[:, None], 1.0)
        weights[np.arange(self.num_units), np.arange(self.num_units)] = np.where(size > 1, 0.0, 1.0)
        return weights[:, self.unit]

    def draws(self, num: int, *keys: Key) -> np.ndarray:
        """Item weights ``[num, I]`` of bootstrap samples: of each stratum's ``n`` cases, ``n - 1`` with replacement.

        With ``n - 1`` draws the variance of a mean is unbiased (Rao & Wu 1988), which matters with 30 cases.
        """
        generator = numpy_generator("turing cases", *keys)
        weights = np.zeros((num, self.num_units))
        for h, size in enumerate(self.sizes):
            members = np.flatnonzero(self.stratum == h)
            if size < 2:
                weights[:, members] = 1.0
                continue
            counts = generator.multinomial(size - 1, np.full(size, 1 / size), size=num)
            weights[:, members] = counts * (size / (size - 1))
        return weights[:, self.unit]


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """Value of every reader, and its covariance over new cases."""

    values: np.ndarray  # float [R], of the readers that have one
    parts: Sequence[tuple[np.ndarray, float]]  # covariance [R, R] and degrees of freedom of each stratum of cases
    num_units: int  # number of cases
    num: int  # number of answers
    how: str  # "jackknife" or "bootstrap"

    @property
    def num_readers(self) -> int:
        """Number of readers that have a value."""
        return len(self.values)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance over new cases, readers fixed: float ``[R, R]``."""
        return np.sum([part for part, _ in self.parts], axis=0)

    @property
    def case_df(self) -> float:
        """Degrees of freedom of the variance of the mean over new cases (Satterthwaite over the strata)."""
        if not self.num_readers:
            return float("nan")
        return _satterthwaite([(float(part.mean()), df) for part, df in self.parts])

    @property
    def mean(self) -> float:
        """Unweighted mean over readers."""
        return float(self.values.mean()) if self.num_readers else float("nan")

    def these_readers(self) -> tuple[float, float]:
        """Variance of the mean over new cases, readers fixed; and its degrees of freedom."""
        return (float(self.covariance.mean()) if self.num_readers else float("nan")), self.case_df

    def new_readers(self) -> tuple[float, float]:
        """Variance of the mean over new readers and new cases (Obuchowski & Rockette 1995), and its degrees of freedom.

        With ``r`` readers, mean square ``MS`` of their values and mean covariance ``Cov2`` between two readers:
        ``V = MS / r + max(Cov2, 0)``. Degrees of freedom: ``1 / df = share / (r - 1) + (1 - share) / df_cases``, where ``share`` is the
        part of V that comes from the readers. Satterthwaite's formula (Hillis 2007) weighs by squared shares; with three readers a
        mean square that is small by chance then buys degrees of freedom that are not there, and intervals cover less than they say.

        NaN with fewer than 3 readers: two say next to nothing about others.
        """
        r = self.num_readers
        if r < MIN_READERS:
            return float("nan"), float("nan")
        from_readers = float(self.values.var(ddof=1)) / r
        off_diagonal = float((self.covariance.sum() - np.trace(self.covariance)) / (r * (r - 1)))
        from_cases = max(off_diagonal, 0.0)
        variance = from_readers + from_cases
        if variance <= 0:
            return 0.0, float(r - 1)
        share = from_readers / variance
        return variance, 1 / (share / (r - 1) + (1 - share) / self.case_df)

    def variance(self, population: str) -> tuple[float, float]:
        """Variance and degrees of freedom for :data:`THESE_READERS` or :data:`NEW_READERS`."""
        return self.new_readers() if population == NEW_READERS else self.these_readers()

    def share(self, population: str, *, level: float = 0.95) -> Estimate:
        """The mean of shares in [0, 1], with Wilson's interval at the effective number of answers."""
        variance, df = self.variance(population)
        low, high = float("nan"), float("nan")
        if np.isfinite(variance):
            low, high = share_interval(self.mean, variance, df, self.num_units, level=level)
        return self._estimate(population, low, high, variance, df, level, "Wilson at the effective number")

    def estimate(self, population: str, *, level: float = 0.95, scale: Scale = IDENTITY) -> Estimate:
        """The mean with a t interval, symmetric on ``scale``."""
        variance, df = self.variance(population)
        low, high = t_interval(self.mean, variance, df, level=level, scale=scale)
        return self._estimate(population, low, high, variance, df, level, f"t on the {scale.name}")

    def _estimate(
        self, population: str, low: float, high: float, variance: float, df: float, level: float, shape: str
    ) -> Estimate:
        whom = "Obuchowski-Rockette over readers" if population == NEW_READERS else "readers fixed"
        return Estimate(
            value=self.mean,
            low=low,
            high=high,
            se=float(np.sqrt(variance)),
            df=df,
            level=level,
            population=population,
            method=f"{self.how} over cases, {whom}, {shape}",
            num=self.num,
        )

    def single(self, reader: int) -> Resampled:
        """One reader's value alone."""
        return Resampled(
            values=self.values[[reader]],
            parts=[(part[[reader]][:, [reader]], df) for part, df in self.parts],
            num_units=self.num_units,
            num=self.num // max(self.num_readers, 1),
            how=self.how,
        )


def jackknife(statistic: ReaderStatistic, cases: Cases, *, num: int = 0) -> Resampled:
    """Values of all readers and their covariance by leaving out one case at a time, stratum by stratum.

    For means of one reader it gives exactly Welch's (two arms of different cases) or the paired t (the same cases) variance and,
    through Satterthwaite's formula over the strata, their degrees of freedom.
    """
    values = statistic(np.ones((1, len(cases.unit))))[0]
    left_out = statistic(cases.deletions)
    # Readers without a value are omitted; a case without which a reader has no value adds no variance.
    known = np.isfinite(values)
    values, left_out = values[known], left_out[:, known]
    left_out = np.where(np.isfinite(left_out), left_out, values)
    # Each stratum adds (n - 1) / n times the sum of squares of its cases.
    parts = []
    for h, size in enumerate(cases.sizes):
        if size < 2:
            continue
        rows = left_out[cases.stratum == h]
        centred = rows - rows.mean(0)
        parts.append(((size - 1) / size * centred.T @ centred, float(size - 1)))
    return Resampled(values=values, parts=parts, num_units=cases.num_units, num=num, how="jackknife")


def _satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances."""
    total = sum(variance for variance, _ in parts)
    if total <= 0:
        return float(sum(df for _, df in parts))
    return total**2 / sum(variance**2 / df for variance, df in parts)


def two_way_bootstrap(
    statistic: ReaderStatistic, cases: Cases, *keys: Key, num_resamples: int = 2000, num: int = 0
) -> Resampled:
    """Values of all readers and their covariance from bootstrap samples of the cases, drawn jointly for every reader.

    ``new_readers`` of the result then adds the readers' part: see the module's first lines for why readers are not resampled.
    """
    plain = jackknife(statistic, cases, num=num)
    known = np.isfinite(statistic(np.ones((1, len(cases.unit))))[0])
    drawn = statistic(cases.draws(num_resamples, *keys))[:, known]
    drawn = drawn[np.isfinite(drawn).all(1)]
    size = int(known.sum())
    covariance = np.cov(drawn, rowvar=False).reshape(size, size) if len(drawn) > 1 else np.full((size, size), np.nan)
    return Resampled(
        values=plain.values,
        parts=[(covariance, plain.case_df)],  # the strata's degrees of freedom are the jackknife's
        num_units=cases.num_units,
        num=num,
        how="bootstrap",
    )
