"""What an evaluation opens: the device of a rank, and refusals of data and directions that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medcodi.config import from_dict
from medcodi.distributed import ALONE
from medcodi.errors import ConfigError, DataError, MedCoDiError
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.inputs import classifier_folder, enough_studies, open_inputs
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.evaluation.systems.systems import BundleSystem
from medcodi.model import demo_checkpoint
from medcodi.study import Direction

DATA = {"source": "phantom", "split": "test", "num_studies": 8, "image_size": 32}


def test_a_bundle_is_opened_without_a_model_or_a_cache(tmp_path) -> None:
    config = from_dict(EvaluateConfig, {"data": DATA, "systems": {"theirs": "gone"}, "out": str(tmp_path / "out")})
    direction = Direction.parse("frontal->report")
    inputs = open_inputs(config, ALONE, bundle_rows={"theirs": {direction: [0, 2]}})
    assert isinstance(inputs.systems[0], BundleSystem) and inputs.systems[0].directions == (direction,)
    assert len(inputs.held_out) == 8 and inputs.annotators.images is None  # no image is a target
    assert inputs.annotators.encoder is None and not (tmp_path / "out").exists()


def test_directions_that_too_few_studies_hold_are_left_out(toy_dataset) -> None:
    dataset = toy_dataset(6)
    for place in (1, 2, 3):
        dataset.studies[place] = replace(
            dataset.studies[place], contents={"frontal": np.zeros((32, 32)), "report": "Clear."}
        )
    held_out = HeldOutStudies(dataset)
    report, lateral = Direction.parse("frontal->report"), Direction.parse("lateral->report")
    directions, left_out = enough_studies("ours", (report, lateral), held_out)
    assert directions == (report,) and [entry.direction for entry in left_out] == ["lateral->report"]
    assert (left_out[0].available, left_out[0].reason) == (3, "3 of 6 studies hold all of it")
    with pytest.raises(MedCoDiError, match=r"lateral->report: 3 of 6.*directions=\[\.\.\.\]"):
        enough_studies("ours", (lateral,), held_out)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"systems": {"a": "nowhere"}}, "no generated contents at nowhere"),
        (
            {"data": {**DATA, "num_studies": 3, "image_size": 128}, "directions": ["report->frontal"]},
            r"3 held-out studies.*num_studies.*test=0\.3",
        ),
        ({"data": {**DATA, "image_size": 48}, "directions": ["report->frontal"]}, "the model makes"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, values: dict, message: str) -> None:
    config = from_dict(EvaluateConfig, {"data": DATA, "device": "cpu", "out": str(tmp_path / "out"), **values})
    with pytest.raises(MedCoDiError, match=message):
        open_inputs(config, ALONE)
    assert not (tmp_path / "out").exists()


def test_the_classifier_is_the_named_one_the_models_or_the_demos(tmp_path: Path) -> None:
    def folder(**values) -> Path:
        data = {"source": "phantom", "num_studies": 8, "image_size": 32}
        return classifier_folder(from_dict(EvaluateConfig, {"data": data, **values}))

    assert folder() == folder(model=str(tmp_path)) == demo_checkpoint()
    (tmp_path / "finding_classifier.safetensors").touch()
    assert folder(model=str(tmp_path)) == tmp_path and folder(model=str(tmp_path), classifier="x") == Path("x")


def test_orders_are_systems_and_one_target_is_generated_in_the_first_alone(tiny_model, tmp_path) -> None:
    values = {
        "data": DATA,
        "model": str(tiny_model.save_pretrained(tmp_path / "model")),
        "orders": ["joint", "chained"],
        "directions": ["report->frontal", "report->frontal+lateral"],
        "metrics": ["findings"],
        "out": str(tmp_path / "out"),
    }
    inputs = open_inputs(from_dict(EvaluateConfig, values), ALONE)
    joint, chained = inputs.systems
    assert (joint.name, chained.name) == ("tiny-joint", "tiny-chained")
    assert [str(direction) for direction in joint.directions] == values["directions"]
    assert [str(direction) for direction in chained.directions] == values["directions"][1:]
    assert [system.describe()["settings"]["order"] for system in inputs.systems] == ["joint", "chained"]


@pytest.mark.parametrize(
    ("names", "message"), [(["A", "a"], "two systems are named 'a' and 'A'"), (["CON"], "plain file name")]
)
def test_names_of_systems_are_names_of_folders_everywhere(tmp_path: Path, names: list[str], message: str) -> None:
    for index in range(8):
        folder = tmp_path / f"theirs/report_to_frontal/phantom-0-{20_000_000 + index}"
        folder.mkdir(parents=True)
        (folder / "frontal.png").touch()
    values = {"data": DATA, "systems": dict.fromkeys(names, str(tmp_path / "theirs")), "out": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=message):
        open_inputs(from_dict(EvaluateConfig, {**values, "metrics": ["text"]}), ALONE)


def test_a_system_of_a_bundle_is_inside_the_bundle(tmp_path: Path) -> None:
    config = from_dict(EvaluateConfig, {"data": DATA, "systems": {"theirs": "gone"}, "out": str(tmp_path / "out")})
    with pytest.raises(DataError, match="names no folder in it"):
        open_inputs(config, ALONE, bundle_rows={"../theirs": {Direction.parse("frontal->report"): [0, 2]}})
