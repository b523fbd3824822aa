"""The analysis of all tasks: estimates are those of the rows, what is missing is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcodi.errors import ConfigError, DataError
from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.answers.table import Answers, answers_from_rows, read_answers
from medcodi.turing.statistics import NEW_READERS, THESE_READERS
from tests.unit.turing.simulated_rows import FACTS, chosen, simulated, write_table


def test_the_estimates_are_those_of_the_rows(answers: Answers, results: dict[str, Any]) -> None:
    rows = [row for row in answers.rows if row["task"] == "realism" and not row["repeat_of"]]
    mean = {
        arm: np.mean(
            [[row["rating"] for row in rows if row["reader"] == r and row["arm"] == arm] for r in answers.readers]
        )
        for arm in ("real", "generated")
    }
    found = chosen(results, task="realism", statistic="difference in mean rating", reader="", group="ratings")
    assert {e["population"] for e in found} == {THESE_READERS, NEW_READERS}
    assert found[0]["value"] == pytest.approx(mean["generated"] - mean["real"], abs=1e-9)
    hits = [row["correct"] for row in answers.rows if row["task"] == "detection" and row["arm"] == "generated"]
    assert chosen(results, statistic="sensitivity", reader="")[0]["value"] == pytest.approx(np.mean(hits), abs=1e-9)


def test_the_table_on_disk_gives_the_same_results(tmp_path: Path, answers: Answers, results: dict[str, Any]) -> None:
    rows = [dict(row) for row in simulated()]
    again = analyze(read_answers(write_table(tmp_path / "t", rows, FACTS)), num_resamples=300)
    assert again["estimates"] == results["estimates"] and again["tests"] == results["tests"]


def test_every_part_of_the_analysis_is_there(results: dict[str, Any]) -> None:
    groups = {(e["task"], e["group"]) for e in results["estimates"]}
    assert groups == {
        ("realism", "ratings"),
        ("realism", "mixed model"),
        ("realism", "agreement"),
        ("realism", "repeats"),
        ("realism", "learning"),
        ("detection", "detection"),
        ("detection", "agreement"),
        ("detection", "learning"),
    }
    names = {e["statistic"] for e in results["estimates"]}
    assert {"d'", "criterion c", "area under the ROC curve", "Fleiss' kappa", "ICC(2,1)", "same answer twice"} <= names
    assert {e["what"] for e in results["equivalences"]} == {"difference in mean rating", "balanced accuracy"}


def test_holm_is_over_one_test_for_each_task(results: dict[str, Any]) -> None:
    main_tests = [t for t in results["tests"] if "p_holm" in t]
    assert [t["task"] for t in main_tests] == ["realism", "detection"]
    low, high = sorted(main_tests, key=lambda t: t["p"])
    assert low["p_holm"] == pytest.approx(min(2 * low["p"], 1)) and high["p_holm"] >= high["p"]


def test_half_finished_readers_are_analysed_and_listed() -> None:
    rows = [
        r for r in simulated() if not (r["reader"] == "reader-02" and r["task"] == "detection" and r["position"] > 55)
    ]
    facts = {
        **FACTS,
        "files": [{"reader": f"reader-0{i}", "of": 96} for i in (1, 2, 3)],
        "readers_without_file": ["reader-04"],
    }
    results = analyze(answers_from_rows(rows, facts), num_resamples=200)
    assert results["completeness"]["half_finished"] == ["reader-02"]
    assert results["completeness"]["without_file"] == ["reader-04"]
    kept = sum(r["reader"] == "reader-02" and r["task"] == "detection" for r in rows)
    assert chosen(results, statistic="accuracy", reader="reader-02")[0]["num"] == kept < 40
    assert not results["problems"]


def test_a_reader_of_one_arm_only_is_left_out_and_named() -> None:
    rows = [
        r
        for r in simulated()
        if not (r["reader"] == "reader-02" and r["arm"] == "generated" and r["task"] == "realism")
    ]
    results = analyze(answers_from_rows(rows, FACTS), num_resamples=200)
    assert any("reader-02" in note for note in results["tasks"]["realism"]["notes"])
    named = {e["reader"] for e in chosen(results, statistic="difference in mean rating", task="realism")}
    assert named == {"", "reader-01", "reader-03"}


def test_unknown_tasks_and_margins_are_refused(answers: Answers) -> None:
    with pytest.raises(DataError, match="did you mean 'realism'"):
        analyze(answers, tasks=["realsm"])
    with pytest.raises(ConfigError, match="did you mean 'detection'"):
        analyze(answers_from_rows(simulated(), {"margins": {"detektion": 0.1}}))
    with pytest.raises(ConfigError, match="margin -1"):
        analyze(answers_from_rows(simulated(), {"margins": {"detection": -1}}))
