"""Statistics of reader studies: every interval says which readers and which cases it speaks about."""

from __future__ import annotations

from medcodi.turing.statistics.intervals import NEW_READERS, SINGLE_READER, THESE_READERS, Estimate
from medcodi.turing.statistics.resampling import Cases, Resampled, jackknife, two_way_bootstrap

__all__ = [
    "NEW_READERS",
    "SINGLE_READER",
    "THESE_READERS",
    "Cases",
    "Estimate",
    "Resampled",
    "jackknife",
    "two_way_bootstrap",
]
