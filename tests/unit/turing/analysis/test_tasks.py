"""The analysis of one task, for every kind of answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from medcodi.errors import DataError
from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.analysis.report import write_report
from medcodi.turing.answers.table import answers_from_rows
from tests.unit.turing.simulated_rows import FACTS, chosen, simulated


def test_a_mixed_model_of_a_balanced_study_gives_the_plain_difference(results: dict[str, Any]) -> None:
    plain = chosen(results, statistic="difference in mean rating", reader="", group="ratings")[0]
    model = results["tasks"]["realism"]["mixed"]["generated - real"]
    assert model["effect"]["value"] == pytest.approx(plain["value"], abs=1e-9) and model["converged"]


def test_a_task_of_one_arm_is_a_problem_and_the_others_go_on(tmp_path: Path) -> None:
    rows = [r for r in simulated() if not (r["task"] == "realism" and r["arm"] == "generated")]
    answers = answers_from_rows(rows, FACTS)
    results = analyze(answers, num_resamples=200)
    assert "real items only" in results["problems"][0]["what"] and chosen(results, task="detection")
    assert "real items only" in write_report(results, answers, tmp_path / "r").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="no task can be analysed.*real items only"):
        analyze(answers_from_rows([r for r in rows if r["arm"] == "real"], FACTS), num_resamples=200)


def test_forced_choice_and_findings_and_a_mismatched_control() -> None:
    rows: list[dict[str, Any]] = []
    generator = np.random.default_rng(3)
    for r in range(3):
        for i in range(30):
            shared = {"reader": f"reader-0{r + 1}", "position": i, "patient": "", "practice": 0, "seconds": 9}
            right = int(generator.random() < 0.7)
            rows.append(
                shared
                | {
                    "task": "pairs",
                    "kind": "forced_choice",
                    "item": f"f{i}",
                    "case": f"c{i}",
                    "arm": "pair",
                    "correct": right,
                }
            )
            arm = ("real", "generated", "mismatched")[i % 3]
            rating = int(np.clip(generator.normal(2 if arm == "mismatched" else 4, 0.8), 1, 5))
            rows.append(
                shared
                | {"task": "fit", "kind": "coherence", "item": f"k{i}", "case": f"c{i}", "arm": arm, "rating": rating}
            )
            arm, there = ("real", "generated")[i % 2], ("present", "absent")[i % 4 // 2]
            marked = there if generator.random() < (0.9 if arm == "real" else 0.6) else "absent"
            rows.append(
                shared
                | {"task": "marks", "kind": "findings", "item": f"m{i}", "case": f"c{i}", "arm": arm}
                | {"findings_reader": json.dumps({"Edema": marked}), "findings_truth": json.dumps({"Edema": there})}
            )
    results = analyze(answers_from_rows(rows, {"margins": {"pairs": 0.2, "fit": 0.5, "marks": 0.1}}), num_resamples=200)
    assert not results["problems"]
    correct = [row["correct"] for row in rows if row["task"] == "pairs"]
    assert chosen(results, task="pairs", statistic="accuracy", reader="")[0]["value"] == pytest.approx(np.mean(correct))
    first = [row["correct"] for row in rows if row["task"] == "pairs" and row["reader"] == "reader-01"]
    exact = next(t for t in results["tests"] if t["task"] == "pairs" and t["reader"] == "reader-01")
    assert exact["p"] == pytest.approx(stats.binomtest(sum(first), 30).pvalue, abs=1e-9)
    control = chosen(
        results, task="fit", contrast="mismatched - real", statistic="difference in mean rating", reader=""
    )[0]
    assert control["high"] < 0  # readers saw what does not belong together
    assert {e["task"] for e in results["equivalences"]} == {"pairs", "fit", "marks"}
    assert {e["contrast"] for e in results["equivalences"] if e["task"] == "fit"} == {"generated - real"}
    edema = {e["contrast"]: e["value"] for e in chosen(results, group="finding: Edema", statistic="accuracy")}
    assert edema["real"] > edema["generated"]
    assert chosen(results, task="marks", statistic="difference in accuracy over all findings")[0]["value"] < 0


def test_an_arm_of_one_item_is_noted_and_not_compared() -> None:
    rows = simulated()
    item = next(row["item"] for row in rows if row["arm"] == "generated")
    for row in rows:
        if row["item"] == item:
            row["arm"] = "autoencoded"
    results = analyze(answers_from_rows(rows), num_resamples=200)
    assert any("autoencoded: answers to 1 item only" in note for note in results["tasks"]["realism"]["notes"])
    assert not chosen(results, contrast="autoencoded - real")


def test_a_difference_of_ratings_stays_within_the_scale() -> None:
    """Three readers who differ as much as they can: Student's t with 2 degrees of freedom would reach beyond ±4."""
    rows: list[dict[str, Any]] = []
    for r, extreme in enumerate((1, 5, 3)):
        for i in range(8):
            arm = ("real", "generated")[i % 2]
            rating = 6 - extreme if arm == "real" else extreme
            rating += (1, 0, -1, 0)[(i // 2 + r) % 4] if extreme == 3 else 0
            shared = {"reader": f"reader-{r}", "position": i, "seconds": 9, "case": f"c{i}", "item": f"i{i}"}
            rows.append(shared | {"task": "t", "kind": "rating", "arm": arm, "rating": rating})
    facts = {"margins": {"t": 0.5}, "alpha": 0.05, "tasks": {"t": {"scale": [1, 5]}}}
    results = analyze(answers_from_rows(rows, facts), num_resamples=200)
    differences = chosen(results, statistic="difference in mean rating")
    intervals = [*differences, *(e["interval"] for e in results["equivalences"])]
    assert all(-4 <= e["low"] <= e["high"] <= 4 for e in intervals if e["low"] is not None)
    assert any(e["low"] == -4 and e["high"] == 4 for e in differences)  # would be wider
    means = chosen(results, statistic="mean rating")
    assert all(1 <= e["low"] <= e["high"] <= 5 for e in means if e["low"] is not None)
