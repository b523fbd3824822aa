"""Exchange rates known by construction: new real studies are worth 1, copies nothing, wrong labels less than nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medcodi.config import to_dict
from medcodi.trust.utility.config import UtilityConfig
from medcodi.trust.utility.job import run
from medcodi.trust.utility.page import verdict
from medcodi.trust.utility.results import verify
from medcodi.trust.utility.scoring import OracleCurve, exchange_rate, monotone
from tests.unit.trust.utility.toy import FINDINGS, toy_datasets, write_generated

NUM = 320
REAL = {"real": 0.15}
ADDED = {**REAL, "add": "synthetic", "times": 2, "against": "base"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of reports with every control: 2 seeds × 2 sampling seeds."""
    from tests.unit.trust.utility.conftest import DATA, NETWORK

    folder = tmp_path_factory.mktemp("exchange")
    generators = {kind: write_generated(folder / kind, NUM, kind=kind) for kind in ("new", "copies", "deaf", "noise")}
    config = UtilityConfig(
        train=DATA,
        validation=DATA,
        test=DATA,
        network=NETWORK,
        task="reports",
        findings=FINDINGS,
        training={"num_steps": 60, "batch_size": 32, "learning_rate": 0.01, "warmup_steps": 5, "num_checks": 3},
        generators={name: {"files": [str(path)], "direction": "frontal->report"} for name, path in generators.items()},
        arms={
            "base": REAL,
            **{f"oracle-{times}": {**REAL, "add": "oracle", "times": times} for times in (1, 2, 5)},
            "new": {**ADDED, "generator": "new"},
            "copies": {**ADDED, "generator": "copies", "prompts": "own", "times": 1},
            "duplicates": {**REAL, "add": "duplicates", "times": 2, "against": "base"},
            "deaf": {**ADDED, "times": 5, "generator": "deaf"},
            "noise": {**REAL, "add": "synthetic", "times": 5, "generator": "noise"},
            "shuffled": {**ADDED, "times": 5, "generator": "new", "shuffle_labels": True},
        },
        seeds=2,
        sampling_seeds=2,
        bootstrap_samples=200,
        out=str(folder / "study"),
    )
    run(config, datasets=toy_datasets(NUM, NUM))
    return Path(config.out)


def test_what_a_study_is_worth(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    rates = results["tests"]["test"]["exchange"]
    new = rates["new"]
    assert new["low"] < 1 < new["high"] and new["low"] > 0.3 and new["resolved"] == 1 and not new["beyond"]
    for control in ("copies", "duplicates"):
        assert abs(rates[control]["value"]) < 0.25, control
        assert rates[control]["low"] < 0.1 and rates[control]["high"] < new["low"], control
    # What is generated has nothing to do with its prompt, or with its label, or says nothing at all.
    for wrong in ("deaf", "shuffled", "noise"):
        assert rates[wrong]["value"] < 0 and rates[wrong]["high"] < 0 < new["low"], wrong
    # The same in the comparisons: new studies help, shuffled labels harm, duplicates do neither.
    rows = {row["arm"]: row for row in results["tests"]["test"]["comparisons"]}
    assert (
        rows["new"]["low"] > 0 > rows["shuffled"]["high"]
        and rows["new"]["p_holm"] < 0.05 < rows["duplicates"]["p_holm"]
    )
    assert any(line.startswith("new: one added study is worth") for line in verdict(results))


def test_every_figure_has_its_interval_and_counts(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    arms, test = results["arms"], results["tests"]["test"]
    assert arms["base"]["num_real"] == 48 and arms["new"]["num_added"] == 96 and arms["copies"]["num_added"] == 48
    assert arms["new"]["num_trainings"] == 4 and arms["new"]["generator_patients"] is None
    assert arms["copies"]["prompt_patients"] == 0 < arms["new"]["prompt_patients"]
    assert any("training patients of generator new are not known" in note for note in results["notes"])
    for figures in test["arms"].values():
        assert set(figures["macro"]) == {"auroc", "auprc", "f1", "ece", "brier"}
        assert set(figures["findings"]) == set(FINDINGS)
        for row in [*figures["macro"].values(), figures["worst_subgroup"]]:
            assert row["low"] <= row["value"] <= row["high"]
        assert figures["worst_subgroup"]["group"].startswith(("F, ", "M, ")) and figures["worst_subgroup"]["of"] >= 2


def test_a_finished_study_verifies_and_a_changed_figure_does_not(finished: Path) -> None:
    assert verify(finished) == []
    stored = (finished / "results.json").read_text()
    results = json.loads(stored)
    results["tests"]["test"]["exchange"]["new"]["value"] += 0.1
    (finished / "results.json").write_text(json.dumps(results))
    (difference,) = verify(finished)
    assert "exchange / new / value" in difference
    (finished / "results.json").write_text(stored)
    for name in ("page.html", "methods.md", "cards/new.md"):
        assert (finished / name).stat().st_size > 500
    text = (finished / "page.html").read_text()
    assert "Exchange rate" in text and "read once" in text and "http" not in text.replace("http://www.w3.org", "")


# ---- the inversion itself --------------------------------------------------------------------------------------------
def test_a_point_of_the_curve_is_worth_its_own_number() -> None:
    curve = OracleCurve(100, np.array([0, 100, 300]), np.array([[0.6], [0.7], [0.8]]))
    assert curve.equivalent(np.array([0.7])) == pytest.approx([100])
    assert curve.equivalent(np.array([0.6])) == pytest.approx([0])
    # Half-way up from 100 to 200 studies is the geometric mean of them.
    assert curve.equivalent(np.array([0.65])) == pytest.approx([100 * 2**0.5 - 100])
    # Below its start, the slope goes on; above its end, the end counts.
    assert curve.equivalent(np.array([0.5])) == pytest.approx([-50])
    rate = exchange_rate(curve, 300, np.array([0.9]))
    assert rate["value"] == pytest.approx(1) and rate["beyond"]


def test_a_curve_that_does_not_rise_gives_no_rate() -> None:
    flat = OracleCurve(10, np.array([0, 10]), np.array([[0.8, 0.8], [0.7, 0.9]]))
    rate = exchange_rate(flat, 10, np.array([0.8, 0.85]))
    assert rate["value"] is None and rate["low"] is None and rate["resolved"] == 1
    assert monotone(np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx([1, 2.5, 2.5, 4])


def test_the_config_survives_its_own_json(study: Callable[..., UtilityConfig]) -> None:
    config = study({"a": {"real": 0.5}, "b": {"add": "oracle", "against": "a"}})
    assert UtilityConfig(**to_dict(config)) == config
