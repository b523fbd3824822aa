"""From the tidy table to results and report: what is there is analysed, what is missing is said."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from medcodi.app.cli import main
from medcodi.errors import ConfigError, DataError, MedCoDiError
from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.analysis.report import imrmc_text, write_report
from medcodi.turing.analysis.wording import verdicts
from medcodi.turing.answers.schema import COLUMNS
from medcodi.turing.answers.table import Answers, answers_from_rows, read_answers
from medcodi.turing.power.simulation import ReaderModel, simulate
from medcodi.turing.statistics import NEW_READERS, THESE_READERS
from tests.unit.turing.simulated_rows import tidy_rows

FACTS = {"study": "demo", "margins": {"realism": 0.7, "detection": 0.15}, "alpha": 0.05}


def simulated(**changes: Any) -> list[dict[str, Any]]:
    study = simulate(ReaderModel(**changes.pop("model", {})), "analysis", num_readers=3, num_per_arm=20, **changes)
    return tidy_rows(study, repeats=16)


def write_table(folder: Path, rows: list[dict[str, Any]], facts: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    if facts is not None:
        (folder / "import.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def answers() -> Answers:
    return answers_from_rows(simulated(), FACTS)


@pytest.fixture(scope="module")
def results(answers: Answers) -> dict[str, Any]:
    return analyze(answers, num_resamples=300)


def chosen(results: dict[str, Any], **wanted: str) -> list[dict[str, Any]]:
    return [e for e in results["estimates"] if all(e[key] == value for key, value in wanted.items())]


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


def test_repeats_and_practice_do_not_count_twice(answers: Answers) -> None:
    assert answers.of("realism").matrix("rating").shape == (3, 40)
    practice = [dict(row, practice="1", item="p" + row["item"]) for row in simulated()]
    assert answers_from_rows(simulated() + practice).of("realism").matrix("rating").shape == (3, 40)


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


def test_a_mixed_model_of_a_balanced_study_gives_the_plain_difference(results: dict[str, Any]) -> None:
    plain = chosen(results, statistic="difference in mean rating", reader="", group="ratings")[0]
    model = results["tasks"]["realism"]["mixed"]["generated - real"]
    assert model["effect"]["value"] == pytest.approx(plain["value"], abs=1e-9) and model["converged"]


def test_a_mixed_model_is_statsmodels_own() -> None:
    import pandas as pd
    import statsmodels.formula.api as smf

    from medcodi.turing.statistics.ratings import fit_mixed

    study = simulate(ReaderModel(), 0, num_readers=3, num_per_arm=30)
    mine = fit_mixed(study.as_ratings)
    assert mine is not None
    frame = pd.DataFrame(
        {"y": study.ratings.ravel(), "arm": np.tile(study.generated, 3) * 1.0, "reader": np.repeat(range(3), 60)}
        | {"case": np.tile(range(60), 3), "one": 1}
    )
    formula = {"case": "0 + C(case)", "reader": "0 + C(reader)", "reader_arm": "0 + C(reader):C(arm)"}
    theirs = smf.mixedlm("y ~ arm", frame, groups="one", vc_formula=formula).fit(reml=True, method=["lbfgs", "powell"])
    names = theirs.model.exog_vc.names
    assert mine.effect.value == pytest.approx(theirs.params["arm"], abs=1e-9)
    assert mine.effect.se == pytest.approx(theirs.bse["arm"], rel=1e-3)
    for name, value in zip(names, theirs.vcomp, strict=True):
        assert mine.components[name] == pytest.approx(value, abs=2e-3)


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


def test_the_report_loads_nothing_and_escapes_what_readers_wrote(tmp_path: Path) -> None:
    rows = simulated()
    rows[0]["free_text"] = "<script>alert(1)</script> ribs & hila"
    answers = answers_from_rows(rows, FACTS)
    page = write_report(analyze(answers, num_resamples=200), answers, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=\"(?!#)", text) and "url(" not in text and "@import" not in text
    assert text.count("<svg") == 5  # bars, two forests, ROC, accuracy by trial
    assert "Obuchowski" in text and "margins declared in the study file before" in text
    assert not re.search(r"indistinguishable|proves|significant(ly)? (the )?same", text)
    names = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file()}
    assert {"results.json", "methods.txt", "tables/estimates.csv", "imrmc/detection.imrmc"} <= names
    values = json.loads((page.parent / "results.json").read_text(encoding="utf-8"))
    with (page.parent / "tables/estimates.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(values["estimates"])


def test_imrmc_holds_truth_and_scores(answers: Answers) -> None:
    text = imrmc_text(answers.of("detection"))
    head, _, data = text.partition("BEGIN DATA:\n")
    assert "N0: 20" in head and "N1: 20" in head and "NR: 3" in head
    rows = [line.split(",") for line in data.splitlines()]
    assert sum(row[0] == "-1" for row in rows) == 40 and len(rows) == 40 + 3 * 40
    one = next(row for row in answers.rows if row["task"] == "detection")
    score = one["confidence"] * (1 if one["choice"] == "generated" else -1)
    assert [one["reader"], one["item"], "detection", f"{score:g}"] in rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ratings"}, "did you mean 'rating'"),
        ({"rating": "four"}, "rating is 'four'"),
        ({"practice": "maybe"}, "practice is 'maybe'"),
        ({"findings_reader": "Edema"}, "JSON such as"),
        ({"case": ""}, "case is empty"),
        ({"item": "item-001"}, "twice"),
    ],
)
def test_rows_that_cannot_be_read_are_named(change: dict[str, str], message: str) -> None:
    rows = [row for row in simulated() if row["task"] == "realism"]
    rows[0] = {**rows[0], **change}
    with pytest.raises(DataError, match=message):
        answers_from_rows(rows)


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no answers"):
        read_answers(write_table(tmp_path / "empty", []))
    with pytest.raises(DataError, match=r"no table of answers.*turing import first"):
        read_answers(tmp_path / "nothing")
    (tmp_path / "answers.csv").write_text("reader,task\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'kind'"):
        read_answers(tmp_path)


def test_unknown_tasks_and_margins_are_refused(answers: Answers) -> None:
    with pytest.raises(DataError, match="did you mean 'realism'"):
        analyze(answers, tasks=["realsm"])
    with pytest.raises(ConfigError, match="did you mean 'detection'"):
        analyze(answers_from_rows(simulated(), {"margins": {"detektion": 0.1}}))
    with pytest.raises(ConfigError, match="margin -1"):
        analyze(answers_from_rows(simulated(), {"margins": {"detection": -1}}))


def test_the_command_writes_the_report_and_refuses_a_full_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write_table(tmp_path / "table", simulated(), FACTS)
    arguments = ["turing", "analyze", str(table), "--out", str(tmp_path / "out"), "--resamples", "200"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code in (0, None) and (tmp_path / "out/report.html").is_file()
    assert "Equivalence" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert issubclass(DataError, MedCoDiError)


def test_an_arm_of_one_item_is_noted_and_not_compared() -> None:
    rows = simulated()
    item = next(row["item"] for row in rows if row["arm"] == "generated")
    for row in rows:
        if row["item"] == item:
            row["arm"] = "autoencoded"
    results = analyze(answers_from_rows(rows), num_resamples=200)
    assert any("autoencoded: answers to 1 item only" in note for note in results["tasks"]["realism"]["notes"])
    assert not chosen(results, contrast="autoencoded - real")
