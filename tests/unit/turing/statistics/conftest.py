"""Simulated studies for the tests of the statistics."""

from __future__ import annotations

import pytest

from medcodi.turing.power.simulation import ReaderModel, SimulatedStudy, simulate


@pytest.fixture(scope="module")
def study() -> SimulatedStudy:
    return simulate(ReaderModel(), "tests", num_readers=3, num_per_arm=30)


@pytest.fixture(scope="module")
def paired() -> SimulatedStudy:
    return simulate(ReaderModel(), "tests", num_readers=3, num_per_arm=30, paired=True)
