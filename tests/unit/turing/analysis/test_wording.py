"""Verdicts follow from the margins."""

from __future__ import annotations

from typing import Any

from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.analysis.wording import verdicts
from medcodi.turing.answers.table import answers_from_rows
from tests.unit.turing.simulated_rows import simulated


def test_without_a_declared_margin_nothing_is_said_about_equivalence() -> None:
    results = analyze(answers_from_rows(simulated(model={"effect": 0.0, "d_prime": 0.0})), num_resamples=200)
    assert results["equivalences"] == []
    for verdict in verdicts(results):
        assert "No margin was declared" in verdict["text"] and "is shown" not in verdict["text"]


def test_equivalence_is_shown_by_the_interval_within_the_margin(results: dict[str, Any]) -> None:
    for e in results["equivalences"]:
        interval = e["interval"]
        inside = (
            abs(interval["low"] - e["reference"]) < e["margin"] and abs(interval["high"] - e["reference"]) < e["margin"]
        )
        assert inside == e["shown"]
