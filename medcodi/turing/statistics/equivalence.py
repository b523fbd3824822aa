"""Equivalence by two one-sided tests, against the margin that the study declared before the reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medcodi.errors import ConfigError
from medcodi.turing.statistics.intervals import Estimate, t_survival
from medcodi.turing.statistics.resampling import Resampled


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Outcome of two one-sided t tests of ``|value - reference| < margin`` (Schuirmann 1987)."""

    margin: float  # declared margin, in the unit of the value
    reference: float  # value of equality: 0 for a difference, 0.5 for an accuracy
    alpha: float  # level of each one-sided test; the interval has coverage `1 - 2 alpha`
    p_lower: float  # p-value of the hypothesis: value <= reference - margin
    p_upper: float  # p-value of the hypothesis: value >= reference + margin
    estimate: Estimate  # with its 1 - 2 alpha interval, and the population for which the statement holds

    @property
    def p(self) -> float:
        """The larger p-value."""
        return max(self.p_lower, self.p_upper) if np.isfinite([self.p_lower, self.p_upper]).all() else float("nan")

    @property
    def shown(self) -> bool:
        """Whether both tests reject, which shows equivalence within the margin; otherwise nothing is shown."""
        return bool(self.p <= self.alpha)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "margin": self.margin,
            "reference": self.reference,
            "alpha": self.alpha,
            "p_lower": self.p_lower if np.isfinite(self.p_lower) else None,
            "p_upper": self.p_upper if np.isfinite(self.p_upper) else None,
            "p": self.p if np.isfinite(self.p) else None,
            "shown": self.shown,
            "interval": self.estimate.to_dict(),
        }


def check_margin(margin: float, *, task: str = "") -> None:
    """Refuse a margin that is not positive."""
    if not (isinstance(margin, int | float) and np.isfinite(margin) and margin > 0):
        raise ConfigError(
            f"margin {margin!r}" + (f" of task {task!r}" if task else ""),
            expected="a positive number, in rating units or as an accuracy",
            fix="declare it in the study file, before export",
        )


def tost(
    resampled: Resampled, margin: float, population: str, *, reference: float = 0.0, alpha: float = 0.05
) -> Equivalence:
    """Two one-sided t tests on the mean over readers.

    Raises:
        ConfigError: If the margin is not positive.
    """
    check_margin(margin)
    variance, df = resampled.variance(population)
    estimate = resampled.estimate(population, level=1 - 2 * alpha)
    # Without a variance there is no test.
    if not np.isfinite(variance):
        nothing = float("nan")
        return Equivalence(
            margin=margin, reference=reference, alpha=alpha, p_lower=nothing, p_upper=nothing, estimate=estimate
        )
    se = float(np.sqrt(variance))
    shifted = resampled.mean - reference
    p_lower, p_upper = (_one_sided(shifted + margin, se, df), _one_sided(margin - shifted, se, df))
    return Equivalence(
        margin=margin, reference=reference, alpha=alpha, p_lower=p_lower, p_upper=p_upper, estimate=estimate
    )


def _one_sided(distance: float, se: float, df: float) -> float:
    if se <= 0:  # no variation over cases, no test
        return float("nan")
    return t_survival(distance / se, df)
