"""Synthetic studies: prompts by policy, a manifest that a model carries out, labels of prompts and tables, and their card."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.errors import DataError
from medcodi.model.identity import model_identity
from medcodi.trust.utility.card import quoted
from medcodi.trust.utility.config import GeneratorConfig, UtilityConfig
from medcodi.trust.utility.job import run
from medcodi.trust.utility.pools import Pool
from medcodi.trust.utility.synthetic.prompts import prompts_of
from medcodi.trust.utility.synthetic.reading import labels_of_files, truth_of_report
from tests.unit.trust.utility.toy import ToyStudies, toy_datasets

FINDINGS = ("Cardiomegaly", "Edema", "Pleural Effusion", "Pleural Effusion/left")
REPORTS = (
    "The heart is enlarged. No pleural effusion.",
    "Large left pleural effusion. Heart size is normal.",
    "Heart size is normal. No pleural effusion.",
    "No edema. Heart size is normal.",
)


@pytest.fixture
def train() -> Pool:
    num = len(REPORTS)
    return Pool(
        ids=tuple(f"s{n}" for n in range(num)),
        patients=tuple(f"p{n}" for n in range(num)),
        groups=("",) * num,
        reports=REPORTS,
        images=torch.zeros(num, 1, 32, 32, dtype=torch.uint8),
        has_image=torch.ones(num, 1, dtype=torch.bool),
        truth=torch.from_numpy(np.stack([truth_of_report(report, FINDINGS) for report in REPORTS])),
        sources=torch.full((num,), -1),
        reread=torch.full((num, len(FINDINGS)), float("nan")),
    )


def of(**values) -> GeneratorConfig:
    return GeneratorConfig(**{"model": "demo", "direction": "report->frontal", "num_studies": 12, **values})


def test_policies_choose_the_prompts(train: Pool) -> None:
    reuse = prompts_of(of(), train, FINDINGS, "g", 0)
    assert [sum(prompt.row == row for prompt in reuse) for row in range(4)] == [3] * 4
    assert len({tuple(p.row for p in prompts_of(of(), train, FINDINGS, "g", sampling)) for sampling in range(6)}) > 1
    balanced = prompts_of(of(prompts="rebalance"), train, FINDINGS, "g", 0)
    assert (
        sorted(prompt.row for prompt in balanced) == [0] * 4 + [1] * 8
    )  # of the large heart; of effusion, and on the left
    assert {prompt.row for prompt in prompts_of(of(finding="Cardiomegaly"), train, FINDINGS, "g", 0)} == {0}
    with pytest.raises(DataError, match="no training study has Edema"):
        prompts_of(of(finding="Edema"), train, FINDINGS, "g", 0)
    silent = replace(train, reports=("", *REPORTS[1:]))
    assert {prompt.row for prompt in prompts_of(of(), silent, FINDINGS, "g", 0)} == {1, 2, 3}
    mixed = [prompt for prompt in prompts_of(of(prompts="mix"), train, FINDINGS, "g", 0) if prompt.is_mixed]
    both = next(
        prompt for prompt in mixed if prompt.row == 0 and "effusion" in prompt.report.lower().partition("no ")[0]
    )
    assert truth_of_report(both.report, FINDINGS)[[0, 2]].tolist() == [1, 1]


def test_labels_of_files_are_the_training_studies_or_the_tables(tmp_path: Path, train: Pool) -> None:
    table = tmp_path / "theirs.csv"
    table.write_text(
        "study_id,direction,report,Cardiomegaly,Edema\ns1,frontal->report,Text.,,\nown,frontal->report,Text.,1,\n"
    )
    labels = labels_of_files(table, train, FINDINGS, ["s1", "own"], {})
    assert labels["s1"].source == 1 and labels["s1"].truth[2] == 1 and labels["s1"].report == REPORTS[1]
    assert labels["own"].source == -1 and labels["own"].truth[:2].tolist() == [1, 0]
    with pytest.raises(DataError, match="prompted by test studies"):
        labels_of_files(table, train, FINDINGS, ["t1"], {"t1": "test"})
    table.write_text("study_id,direction,report,Cardiomegaly\nown,frontal->report,Text.,yes\n")
    with pytest.raises(DataError, match="line 2"):
        labels_of_files(table, train, FINDINGS, ["own"], {})


def test_a_model_generates_what_an_arm_adds(study: Callable[..., UtilityConfig], tmp_path: Path, tiny_model) -> None:
    tiny_model.save_pretrained(tmp_path / "tiny")
    generator = {
        "model": str(tmp_path / "tiny"),
        "direction": "report->frontal",
        "num_studies": 6,
        "preset": None,
        "batch_size": 3,
        "trained_on": {"source": "phantom", "num_studies": 50, "image_size": 32},
    }
    arms = {
        "real": {},
        "added": {"add": "synthetic", "times": 0.25},
        "read": {"add": "synthetic", "times": 0.25, "labels": "annotator"},
    }
    audited = {
        "model": {"name": "tiny", "sha256": model_identity(tiny_model)["sha256"]},
        "limits_sha256": "ab" * 32,
        "limits": [{"title": "a limit", "allowed": 0.5, "outcome": "not shown"}],
        "populations": {"members": 20, "non_members": 20},
        "membership": {"main": {"true_alarms": {"0.1": None}}},
        "verdict": {"outcome": "inconclusive", "lines": ["Inconclusive: this is no pass."]},
    }
    config = study(arms, generators={"tiny": generator}, privacy_audit=str(tmp_path / "audit"))
    with pytest.raises(DataError, match="privacy_audit names .*, which holds no results"):
        run(config, datasets=toy_datasets(24, 24))
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/results.json").write_text(json.dumps(audited))
    results = run(config, datasets=toy_datasets(24, 24))
    facts = results["generators"]["tiny"]
    assert (
        facts["num_patients"] == 50 and facts["pools"][0]["num_studies"] == 6 and facts["pools"][0]["num_prompts"] == 6
    )
    assert results["arms"]["added"]["num_added"] == 6 and results["arms"]["added"]["generator_patients_beyond"] == 50
    assert 0 <= facts["pools"][0]["pass_filter"] <= 1 and "Cardiomegaly" in facts["pools"][0]["agreement"]
    # What was generated is a folder of `medcodi synthesize`, which names the training study of each row.
    out = Path(config.out)
    with (out / "synthetic/tiny/0/studies/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and all(row["training_study"].startswith("toy-0-") for row in rows)
    assert rows[0]["report_prompt"] == ToyStudies(24)[int(rows[0]["training_study"].split("-")[2])].report
    card = json.loads((out / "cards/tiny.json").read_text())
    assert card["generator"]["training_patients"] == 50 and card["studies"] == [6]
    # The card quotes the audit, and says whose it is.
    quote = card["privacy_audit"]
    assert (quote["outcome"], quote["of_this_generator"], quote["limits"]) == ("inconclusive", "yes", "ab" * 6)
    text = (out / "cards/tiny.md").read_text()
    assert "Outcome: **inconclusive**" in text and "- Inconclusive: this is no pass." in text
    assert quoted(audited, "b", "0" * 64)["of_this_generator"] == "no: of another model"
    assert quoted(audited, "b", None)["of_this_generator"].startswith("not known") and quoted(None, None, "x") == "none"
    # One that was trained on the population of the test is refused.
    leaking = {**generator, "trained_on": {"source": "phantom", "num_studies": 50, "image_size": 32, "split": "test"}}
    phantoms = {"source": "phantom", "num_studies": 20, "image_size": 32}
    sets = {
        name: {**phantoms, "split": split}
        for name, split in (("train", "train"), ("validation", "val"), ("test", "test"))
    }
    with pytest.raises(DataError, match="was trained on 20 patients of test"):
        run(study(arms, generators={"tiny": leaking}, out=str(tmp_path / "leak"), **sets))
