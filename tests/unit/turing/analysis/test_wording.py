"""Verdicts follow from the margins."""

from __future__ import annotations

from typing import Any

from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.analysis.report import render_report
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


def test_a_doubtful_reader_turns_the_verdict_amber_and_is_named(results: dict[str, Any]) -> None:
    first, second, third = results["readers"]
    clean = verdicts(results)
    assert all("Doubtful" not in verdict["text"] and verdict["tone"] != "doubt" for verdict in clean)
    completeness = results["completeness"] | {
        "doubtful": [f"{second}: the display check was not passed", "reader-99: 4 answers in less than 0.3 s"],
        "excluded": [{"reader": first, "item": "item-001", "why": "it took 100000 seconds"}],
    }
    doubted = verdicts(results | {"completeness": completeness})
    for before, after in zip(clean, doubted, strict=True):
        assert after["tone"] == "doubt" and after["text"].startswith(before["text"])
        assert f"the answers of {first} and {second}: check them first." in after["text"]
        assert third not in after["text"] and "reader-99" not in after["text"]
    assert 'class="box doubt"' in render_report(results | {"completeness": completeness})
