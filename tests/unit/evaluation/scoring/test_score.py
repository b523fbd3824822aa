"""``score`` is a function of the folder of annotations and the configuration, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcodi.config import from_dict
from medcodi.evaluation.annotations import METADATA, STUDIES, Annotations, real_path, table_path
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.scoring.score import score
from medcodi.study import Direction
from tests.unit.evaluation.scoring.conftest import Toy, study_table

pytest.importorskip("pycocoevalcap")
DIRECTIONS = [Direction.parse(text) for text in ("report->frontal", "frontal->report")]


@pytest.fixture
def folder(toy: Toy, tmp_path: Path) -> Path:
    """Annotations of a system that gives the truth, in two directions; of the second, only 30 studies."""
    real = {name: toy.annotate(name, toy.held_out.values(name, list(range(60)))) for name in ("frontal", "report")}
    for name, table in real.items():
        table.save(real_path(tmp_path, name))
    rows = {str(DIRECTIONS[0]): list(range(60)), str(DIRECTIONS[1]): list(range(30))}
    for direction in DIRECTIONS:
        (target,) = direction.targets
        table = real[target].at(rows[str(direction)])
        table.arrays.update(
            {name: table.arrays["range"] for name in ("ssim", "ssim_floor", "psnr", "psnr_floor")}
            if target == "frontal"
            else {}
        )
        table.save(table_path(tmp_path, "truth", direction, target))
    study_table(toy.held_out).save(tmp_path / STUDIES)
    system = {
        "description": {"kind": "files"},
        "directions": {name: {"given": own, "scored": own} for name, own in rows.items()},
        "image_sizes": {},
    }
    metadata = {
        "protocol": {"data": {"image_size": 32}}, "systems": {"truth": system}, "geometry": {}, "excluded": [],
        "scored_sha256": "0",
    }  # fmt: skip
    (tmp_path / METADATA).write_text(json.dumps(metadata))
    return tmp_path


def config(**changes) -> EvaluateConfig:
    data = {"source": "phantom", "num_studies": 60, "image_size": 32}
    values = {"data": data, "bootstrap_samples": 100, "min_positives": 3, "meteor": False, "pictures": 1}
    return from_dict(EvaluateConfig, {**values, **changes})


def test_the_same_annotations_give_the_same_results(folder: Path) -> None:
    counted: list[int] = []
    first = score(Annotations(folder), config(), lambda: counted.append(1))
    second = score(Annotations(folder), config(out="elsewhere", device="cpu"))
    assert json.dumps(first) == json.dumps(second) and len(counted) == 2  # JSON-ready, as it is


def test_results_hold_every_part(folder: Path) -> None:
    results = score(Annotations(folder), config())
    system = results["systems"]["truth"]
    assert system["kind"] == "files" and list(system["directions"]) == [str(direction) for direction in DIRECTIONS]
    assert system["coverage"]["frontal->report"] == {"given": 30, "scored": 30, "usable": 60}
    assert all(scores["primary"]["beats_shuffled"] for scores in system["directions"].values())
    assert results["comparisons"] == {"multi_prompt": [], "systems": [], "left_out": []}
    (picture,) = results["pictures"]["frontal->report"]  # nothing is wrong, so only the random one
    assert picture["row"] < 30 and "missed" not in picture["generated"]["truth"]["report"]
    assert "ms_ssim" not in system["directions"]["report->frontal"]["targets"]["frontal"]["metrics"]  # not annotated
    assert score(Annotations(folder), config(pictures=0))["pictures"] == {}


def test_only_the_settings_of_scoring_matter(folder: Path) -> None:
    few = score(Annotations(folder), config(metrics=["findings"], min_positives=60))
    primary = few["systems"]["truth"]["directions"]["report->frontal"]["primary"]
    assert primary["model"] is None and primary["name"] == "finding_macro_f1"
