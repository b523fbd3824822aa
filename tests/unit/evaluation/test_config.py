"""The configuration: names are checked at the door, and scoring is a part of it."""

from __future__ import annotations

import pytest

from medcodi.config import from_dict, to_dict
from medcodi.errors import ConfigError, MedCoDiError, PromptError
from medcodi.evaluation.config import (
    UNCONDITIONAL,
    EvaluateConfig,
    ScoringConfig,
    default_directions,
    named_directions,
)
from medcodi.evaluation.provenance import scoring_protocol

DATA = {"source": "phantom", "num_studies": 8, "image_size": 32}


def config(**values) -> EvaluateConfig:
    return from_dict(EvaluateConfig, {"data": DATA, **values})


def test_scoring_is_a_part_of_the_configuration() -> None:
    own = config(bootstrap_samples=123, seed=7, metrics=["findings"])
    assert own.scoring == ScoringConfig(bootstrap_samples=123, seed=7, metrics=("findings",))
    assert from_dict(EvaluateConfig, to_dict(own)) == own


def test_directions_are_all_or_those_that_are_named() -> None:
    assert len(config().model_directions()) == 13 and config().model_directions()[-1] == UNCONDITIONAL
    assert config().requested_directions is None
    named = config(directions=["report->frontal"])
    assert named.requested_directions == named.model_directions() and len(named.model_directions()) == 1


def test_a_model_generates_unless_only_other_systems_are_evaluated() -> None:
    assert config().evaluates_model and not config(systems={"a": "x"}).evaluates_model
    assert config(systems={"a": "x"}, model="m").evaluates_model


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metrics": ["frechett"]}, "did you mean 'frechet'"),
        ({"extractors": ["rad-dyno"]}, "did you mean 'rad-dino'"),
        ({"extractor_sha256": {"xrvv": "0"}}, "did you mean 'xrv'"),
        ({"image_reader": "dem"}, "did you mean 'demo'"),
        ({"labeler": "rule"}, "did you mean 'rules'"),
        ({"report_scorers": ["radgraf"]}, "did you mean 'radgraph'"),
        ({"preset": "fastt"}, "did you mean 'fast'"),
        ({"directions": ["report->mri"]}, "mri"),
        ({"systems": {"../x": "y"}}, "invalid name of a system"),
        ({"unmentioned": "maybe"}, "unmentioned"),
    ],
)
def test_invalid_names_are_refused(values: dict, message: str) -> None:
    with pytest.raises(MedCoDiError, match=message):
        config(**values)
    with pytest.raises(ConfigError, match="did you mean 'text'"):
        ScoringConfig(metrics=("texts",))


def test_orders_are_systems_of_their_own_and_what_makes_no_table_is_refused() -> None:
    own = config(orders=["joint", "chained"], sequence=["report", "frontal", "lateral"])
    assert {order: one.sequence for order, one in own.generations.items()} == {
        "joint": None,
        "chained": ("report", "frontal", "lateral"),
    }
    assert list(config(order="staggered", lag=3).generations) == [""]
    for values, message in (
        ({"orders": ["joint", "chaned"]}, "did you mean 'chained'"),
        ({"orders": ["joint", "joint"]}, "each order once"),
        ({"orders": ["joint"], "order": "chained"}, "each order once"),
        ({"orders": ["joint"], "directions": ["report->frontal"]}, "one target each"),
        ({"orders": ["joint"], "systems": {"theirs": "a"}}, "only other systems' output"),
        ({"order": "chained", "sequence": ["frontal"]}, "does not name the target lateral"),
    ):
        with pytest.raises(MedCoDiError, match=message):
            config(**values)


def test_the_old_name_of_a_key_is_read_with_a_notice() -> None:
    with pytest.warns(FutureWarning, match="joint_guidance_scale is called environment_guidance_scale"):
        assert config(joint_guidance_scale=3.0).environment_guidance_scale == 3.0
    with pytest.raises(ConfigError, match="unknown key 'joint_guidance_scale'"):
        config(joint_guidance_scale=3.0, environment_guidance_scale=2.0)


def test_a_modality_beside_the_standard_ones_has_documented_directions() -> None:
    modalities = ("frontal", "lateral", "report", "record")
    directions = [str(direction) for direction in config().model_directions(modalities)]
    assert directions[:13] == [str(direction) for direction in config().model_directions()]
    assert directions[13:] == [
        "record->frontal", "record->lateral", "record->report", "report+record->frontal", "report+record->lateral",
        "frontal->record", "lateral->record", "report->record", "frontal+lateral+report->record",
        "record->frontal+lateral+report",
    ]  # fmt: skip
    named = config(directions=["record", "standard", "frontal->record"])
    assert {str(direction) for direction in named.model_directions()} == set(directions)
    assert len(default_directions(("frontal", "report"))) == 3  # both ways, and unconditional
    for wrong, message in (("recrod", "did you mean 'record'"), ("frontal", "'frontal' is not a direction")):
        with pytest.raises(PromptError, match=message):
            named_directions(wrong)


def test_the_words_of_the_protocol_are_of_the_chosen_groups_alone() -> None:
    old = scoring_protocol(config(metrics=["findings"]))
    assert not {"records", "obedience", "subgroups", "subgroup_by", "subgroup_studies"} & set(old)
    assert {"subgroups", "subgroup_by", "records"} <= set(scoring_protocol(config()))


def test_a_weaker_model_may_guide_and_is_left_out_of_configs_without_one() -> None:
    weak = config(weak={"model": "runs/early/model", "scale": 1.5})
    assert {own.weak.scale for own in weak.generations.values() if own.weak is not None} == {1.5}
    assert "weak" not in to_dict(config()) and config().generation.weak is None
