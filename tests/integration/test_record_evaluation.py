"""An evaluation of a model with a record: as prompt, as target, by subgroups; verified, scored again, and other systems' records."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medcodi.app.commands.evaluate import evaluation_values
from medcodi.config import from_dict, load
from medcodi.data.loading import DataConfig
from medcodi.errors import ConfigError, DataError
from medcodi.evaluation import (
    ClassifierTrainConfig,
    EvaluateConfig,
    evaluate,
    rescore_bundle,
    train_classifier,
    verify_bundle,
)
from medcodi.model import build_model
from medcodi.model.config import ModelConfig

pytest.importorskip("sklearn")
pytest.importorskip("jinja2")
SIZE, NUM = 32, 24
DIRECTIONS = ["record->frontal", "report+record->frontal", "frontal->record", "report->frontal+record"]


def phantoms(split: str, num: int) -> dict[str, Any]:
    return {"source": "phantom", "version": 2, "split": split, "num_studies": num, "image_size": SIZE}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny generator with a record, and a classifier that reads two fields, after a few steps each."""
    folder = tmp_path_factory.mktemp("model")
    recipe = load(ModelConfig, "configs/models/tiny-record.yaml")
    studies = from_dict(DataConfig, phantoms("train", 24)).build()
    reports, records = (
        [study.contents[name] for study in map(studies.__getitem__, range(24))] for name in ("report", "record")
    )
    build_model(recipe, reports, records).save_pretrained(folder)
    network = {"image_size": SIZE, "channels": [4, 8], "blocks": [0, 1]}
    fields = {"age": {"low": 0, "high": 120, "unit": "years"}, "sex": {"values": ["F", "M"]}}
    values = {
        **{name: phantoms(split, 24) for name, split in (("train", "train"), ("validation", "val"), ("test", "test"))},
        "network": {**network, "record_fields": fields},
        "num_steps": 2,
        "batch_size": 8,
        "out": str(folder),
    }
    train_classifier(from_dict(ClassifierTrainConfig, values), quiet=True)
    card = folder / "finding_classifier.json"  # two steps teach little: what it may judge must not be luck
    content = json.loads(card.read_text())
    for view in content["ceiling"].values():
        for target in ("No Finding", "Lung Opacity", "Pleural Effusion"):
            view[target].update(auroc=0.9, positives=10)
    for view in content["record_ceiling"].values():
        view["age"].update(r=0.9, studies=24)
        view["sex"].update(auroc=0.9, studies=24)
    card.write_text(json.dumps(content))
    return folder


def config(model: Path | None, out: Path, **changes: Any) -> EvaluateConfig:
    values = {
        "data": phantoms("test", NUM),
        "directions": DIRECTIONS,
        "out": str(out),
        "num_inference_steps": 2,
        "record_draws": 3,
        "batch_size": 10,
        "bootstrap_samples": 100,
        "permutations": 100,
        "min_positives": 2,
        "subgroup_by": ["sex"],
        "subgroup_studies": 5,
        "metrics": ["findings", "coherence", "records", "obedience", "subgroups"],
        "pictures": 1,
        "device": "cpu",
        **({"model": str(model)} if model else {}),
    }
    return from_dict(EvaluateConfig, {**values, **changes})


@pytest.fixture(scope="module")
def bundle(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "out"
    evaluate(config(model_folder, out), quiet=True)
    return out


def test_a_record_is_judged_as_prompt_and_as_target(bundle: Path) -> None:
    results = json.loads((bundle / "results.json").read_text())
    directions = results["systems"]["tiny-record"]["directions"]
    record = directions["frontal->record"]["targets"]["record"]
    age = record["metrics"]["record_mae/age"]
    assert age["value"] is not None and age["floor"] is not None and age["ceiling"] is not None
    assert (
        record["metrics"]["record_coverage/age"]["draws"] == 3
        and record["metrics"]["record_coverage/age"]["expected"] == 0.5
    )
    assert record["metrics"]["record_r2/haemoglobin"]["ceiling"] is None and "record_auroc/sex" in record["metrics"]
    assert directions["frontal->record"]["primary"]["model"] is None
    # Obedience, only where a record prompts.
    for direction, is_prompt in (
        ("record->frontal", True),
        ("report+record->frontal", True),
        ("report->frontal+record", False),
    ):
        metrics = directions[direction]["targets"]["frontal"]["metrics"]
        assert ("obedience_r/age" in metrics) == is_prompt, direction
    # A record beside a film is drawn once.
    beside = directions["report->frontal+record"]["targets"]["record"]
    assert "record_mae/age" in beside["metrics"] and any("2 draws" in entry["reason"] for entry in beside["left_out"])
    groups = directions["record->frontal"]["targets"]["frontal"]["subgroups"]["finding_macro_f1"]
    assert set(groups["groups"]) == {"sex F", "sex M"} and {groups["worst"], groups["best"]} == {"sex F", "sex M"}
    against = {(test["direction"], test["metric"]) for test in results["comparisons"]["multi_prompt"]}
    assert ("report+record->frontal", "obedience_r/age") in against
    page = (bundle / "page.html").read_text()
    for words in ("Do films obey the record?", "Subgroups", "should be 0.500, 3 draws", "age=", "Records"):
        assert words in page, words


def test_it_is_verified_and_scored_again(bundle: Path, tmp_path: Path) -> None:
    verification = verify_bundle(bundle, device="cpu", quiet=True)
    assert verification.holds, [str(difference) for difference in verification.differences][:5]
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    results = rescore_bundle(copy, {"subgroup_by": ["sex", "age:60"], "subgroup_studies": 3})
    own = results["systems"]["tiny-record"]["directions"]["record->frontal"]["targets"]["frontal"]["subgroups"]
    assert any("age 0–60" in group for group in own["finding_micro_f1"]["groups"])


def test_records_of_other_systems_are_read_as_files_and_cells(bundle: Path, model_folder: Path, tmp_path: Path) -> None:
    ids = [study["study_id"] for study in json.loads((bundle / "scored.json").read_text())["studies"]]
    for index, study_id in enumerate(ids):
        folder = tmp_path / "theirs/frontal_to_record" / study_id
        folder.mkdir(parents=True)
        record = {"age": 30 + 2 * index, "sex": "FM"[index % 2], "shoe_size": 43}
        (folder / "record.json").write_text(json.dumps(record))
    rows = [f'{study_id},frontal,"age={30 + 2 * index}, sex={"FM"[index % 2]}"' for index, study_id in enumerate(ids)]
    (tmp_path / "table.csv").write_text("\n".join(["study_id,prompts,record", *rows]))
    systems = {"files": str(tmp_path / "theirs"), "cells": str(tmp_path / "table.csv")}
    changes = {
        "systems": systems,
        "directions": None,
        "metrics": ["records"],
        "classifier": str(model_folder),
        "pictures": 0,
    }
    results = evaluate(config(None, tmp_path / "out", **changes), quiet=True)
    files, cells = (
        results["systems"][name]["directions"]["frontal->record"]["targets"]["record"]["metrics"] for name in systems
    )
    assert files == cells and files["record_mae/age"]["studies"] == NUM
    first = tmp_path / "theirs/frontal_to_record" / ids[0] / "record.json"
    first.write_text('{"age": 200}')
    with pytest.raises(DataError, match="age is 200, outside its plausible range"):
        evaluate(config(None, tmp_path / "again", **changes), quiet=True)


def test_without_data_it_is_judged_on_phantoms_that_have_records(model_folder: Path) -> None:
    values = evaluation_values(None, model=str(model_folder), data=None, out_dir=None)
    assert (
        values["data"]["version"] == 2
        and "version" not in evaluation_values(None, model=None, data=None, out_dir=None)["data"]
    )


def test_records_that_the_model_does_not_know_are_refused(model_folder: Path, tmp_path: Path) -> None:
    index = json.loads((model_folder / "model_index.json").read_text())
    recipe = from_dict(ModelConfig, index["config"])
    fields = {name: field for name, field in recipe.records.fields.items() if name != "bnp"}
    studies = from_dict(DataConfig, phantoms("train", 4)).build()
    smaller = replace(recipe, record=replace(recipe.records, fields=fields))
    build_model(smaller, [str(studies[0].report)]).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="have bnp, which the model does not know"):
        evaluate(config(tmp_path / "model", tmp_path / "out", classifier=str(model_folder)), quiet=True)
